"""Which engine runs a model: the fastest that gives the model's own logits.

From the first layer and from others on, over a whole text and from its middle on.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, attached
from factlab.models.anatomy import Anatomy
from factlab.models.engines.engine import Engine
from factlab.models.engines.plain import PlainPasses
from factlab.models.engines.replay import Replay
from factlab.models.engines.shell import Shell
from factlab.models.engines.states import StatesReplay
from factlab.models.probing import LENGTH, close, explained
from factlab.models.trial import Probed, Speaker
from factlab.tokens import pad


def choose_engine(
    speaker: Speaker, model: PreTrainedModel, anatomy: Anatomy, ids: Tensor, probed: Probed
) -> tuple[Engine, int, tuple[str, ...]]:
    """The fastest engine that gives the model's own logits, and why no faster one does.

    Args:
        speaker: what is called.
        model: the whole of which that may be a part.
        anatomy: of the whole.
        ids: a short text, (1, pos).
        probed: what a forward pass of it showed.

    Returns:
        The engine, how many numbers it keeps of a token, and the reasons.

    Raises:
        UnsupportedModelError: there is none.
    """
    layers = list(model.get_submodule(anatomy.layers).children()) if anatomy.layers else []
    if any(seen[0].ndim != 3 for seen in probed.blocks if seen):
        layers = []  # several streams side by side: nothing that we could put in their place
    runs = [i for i in range(len(layers)) if i not in anatomy.skipped]
    makers: list[Callable[[], Engine]] = []
    if layers:
        paths = speaker.inside(anatomy.layers), speaker.inside(anatomy.embed)
        shell = partial(Shell, speaker.model, *paths, probed.returns_tuple, runs[0])
        makers += [lambda: Replay(layers, shell()), lambda: StatesReplay(layers, shell())]
        makers += [
            partial(PlainPasses, speaker.model, layers, runs, bare) for bare in (False, True)
        ]
    makers += [partial(PlainPasses, speaker.model, [], [], bare) for bare in (False, True)]
    reasons: list[str] = []
    for make in makers:
        try:
            with explained(model, "be run layer by layer"):
                engine = make()
                n_cached = _check_engine(engine, ids, probed.logits)
                engine.takes_embedding = _takes_embedding(model, anatomy, engine, ids)
                return engine, n_cached, tuple(dict.fromkeys(reasons))
        except UnsupportedModelError as error:
            reasons.append(str(error).removesuffix("."))
    raise UnsupportedModelError(f"{reasons[-1]}. This model cannot be asked anything.")


def _check_engine(engine: Engine, ids: Tensor, expected: Tensor) -> int:
    """Compare what an engine gives with the model's own logits.

    The first half of the text is run alone, so that it is seen too whether what comes later changes
    anything before it; the second half behind what was kept of the first, and in parts, each with a
    frame of its own: nothing may be left over from the layers below.

    Returns:
        How many numbers are kept of a token, all layers together.

    Raises:
        UnsupportedModelError: the logits differ.
    """
    row, middle = ids[0].tolist(), LENGTH // 2
    batch, record = pad([row], ids.device), engine.recording(LENGTH)
    begun = engine.run(engine.frame(pad([row[:middle]], ids.device), record))[0]
    compare = [("from its beginning", engine.readout(begun), expected[:middle])]
    if not engine.n_layers:
        whole = engine.run(engine.frame(batch))[0]
        compare.append(("as a whole", engine.readout(whole), expected))
    else:
        prefix, half, last = record.prefix(middle), engine.n_layers // 2, engine.n_layers - 1
        state: Tensor | None = None
        for first, stop in ((0, half), (half, last), (last, None)):
            state = engine.run(engine.frame(batch, prefix, middle), state, first, stop)
        right = torch.empty(0) if state is None else state[0]
        compare.append(("from its middle on", engine.readout(right), expected[middle:]))
        padded = pad([row, row], ids.device, align=[middle, 1])
        both = record.prefix([middle, 1], rows=[0, 0])
        shifted = engine.run(engine.frame(padded, both, middle))[1, : LENGTH - 1]
        compare.append(("padded on its left", engine.readout(shifted), expected[1:]))
    for what, logits, reference in compare:
        if not close(logits, reference):
            raise UnsupportedModelError(
                f"Running a text {what} by {engine.name} does not give the model's own logits"
            )
    return sum(x.numel() for kept in record.kept for x in kept) // middle


def _takes_embedding(model: PreTrainedModel, anatomy: Anatomy, engine: Engine, ids: Tensor) -> bool:
    """Whether what layers are called with, besides their state, depends on the embedding."""
    batch = pad([ids[0].tolist()], ids.device)
    doubled = Hook(model.get_submodule(anatomy.embed), _doubled) if anatomy.embed else None
    if doubled is None or not engine.steps:
        return False
    plain = list(_tensors(engine.frame(batch).calls))
    with attached([doubled]):
        other = list(_tensors(engine.frame(batch).calls))
    return len(plain) != len(other) or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, other, strict=True)
    )


def _doubled(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return 2 * output


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
