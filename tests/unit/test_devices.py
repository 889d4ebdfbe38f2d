"""What would fail on a GPU, or wait for it at every turn; there need be none, see `fake_device`.

To watch another path, add a function of a model, and of a folder to write into, to `PATHS`: it is
run on models of several families that lie on the fake GPU, and must come to what it comes to on the
CPU. To watch how often a loop waits, do as `test_a_step_waits_as_little_as_this` does: run it with
two numbers of steps, and count what the further ones cost.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import GPU, FakeGpu
from tiny_records import (
    FT,
    LIKELIHOODS,
    MEMIT,
    PASSAGES,
    REFERENCES,
    ROME,
    TEXTS,
    background,
    make_record,
    make_records,
    make_zsre,
    reports,
)
from torch.utils._pytree import tree_flatten

import factlab as fl
from factlab.tracing.configs import KINDS

FAMILIES = ("gpt2", "llama")
# Of other builds only what runs layers in another way.
OTHERS = ("gptj", "bloom", "mixtral", "mamba")
FACTS = [
    fl.Fact("{} is in the city of", "The Space Needle", "Rome", "Seattle"),
    fl.Fact("{} is a mountain in", "Vinson Massif", "Paris", "Antarctica"),
    fl.Fact("{} plays the", "Miles Davis", "tower", "trumpet"),
]


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with FakeGpu() as entered:
        yield entered


# -- the device itself ------------------------------------------------------------------------


def test_tensors_stay_where_they_are(gpu):
    there, here = torch.arange(4.0, device="cuda"), torch.arange(4.0)
    assert (there.device, here.device) == (GPU, torch.device("cpu"))
    for made in (there * 2, there[1:], there.new_zeros(2), torch.zeros_like(there), there.double(),
                 there.sum(), there[here.long()], here.to(there), torch.stack([there, there])):  # fmt: skip
        assert made.device == GPU
        assert made.is_cuda
    for made in (there.cpu(), there.to("cpu"), here[1:], here.copy_(there), torch.zeros_like(here),
                 torch.ones_like(there, device="cpu"), torch.tensor(there.tolist())):  # fmt: skip
        assert made.device.type == "cpu"
    there[:2] = here[:2]
    assert (there + here[0]).device == GPU
    layer = torch.nn.Linear(4, 2).to("cuda")
    assert layer.weight.device == layer(there).device == GPU
    assert gpu.holds(layer.weight)
    assert torch.equal(there.cpu(), here)


def test_gradients_go_back_to_where_they_came_from(gpu):
    here = torch.ones(3, requires_grad=True)
    there = torch.full((3,), 2.0, device=GPU, requires_grad=True)
    ((here.to(GPU) * there).sum().cpu() * 3).backward()
    assert here.grad is not None and there.grad is not None
    assert (here.grad.device.type, there.grad.device) == ("cpu", GPU)
    assert (here.grad.tolist(), there.grad.tolist()) == ([6.0] * 3, [3.0] * 3)


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here.add_(there[0]),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.stack([there[0], here[0]]),
        lambda there, here: here[there.long()],
        lambda there, here: there.index_select(0, here.long()),
        lambda there, here: torch.nn.functional.linear(here[None], there[None]),
        lambda there, here: there.__setitem__(here.long(), here),
        lambda there, here: there.numpy(),
        torch.equal,
    ],
)
def test_what_a_gpu_refuses(gpu, mix):
    there, here = torch.arange(4.0, device=GPU), torch.arange(4.0)
    with pytest.raises((RuntimeError, TypeError), match=r"same device|can't convert"):
        mix(there, here)
    mix(there.cpu(), here)


def test_waits_are_counted(gpu):
    there, here = torch.arange(4.0, device=GPU), torch.arange(4.0)
    with gpu.counting() as waits:
        there.mul(2).add(there.sum()).softmax(-1)
        assert waits.n == 0
        for fetch in (there.tolist, there.cpu, there.sum().item, lambda: bool(there[0] > 1),
                      lambda: there[there > 1], there.nonzero, lambda: float(there[1])):  # fmt: skip
            fetch()
        assert (waits.fetched.total(), waits.sent.total()) == (7, 0)
        for send in (lambda: here.to(GPU), lambda: torch.tensor([1, 2], device=GPU),
                     lambda: there[[0, 1]], lambda: there[here.long()]):  # fmt: skip
            send()
        assert (waits.fetched.total(), waits.sent.total()) == (7, 4)


def test_there_is_no_gpu_outside():
    with FakeGpu():
        kept = torch.ones(2, device=GPU)
    assert kept.device.type == "cpu"
    assert (kept + torch.ones(2)).tolist() == [2.0, 2.0]


# -- the paths of the library -----------------------------------------------------------------


def _traced(**settings: Any) -> Callable[[fl.LanguageModel, Path], Any]:
    config = fl.tracing.TraceConfig(samples=2, **settings)
    return lambda lm, folder: fl.causal_trace(lm, FACTS[0], config=config).effects


def _edited(make: Callable[[fl.LanguageModel], Any]) -> Callable[[fl.LanguageModel, Path], Any]:
    """What edits change, on the CPU."""

    def changes(lm: fl.LanguageModel, folder: Path) -> Any:
        made = make(lm)
        edits = [made] if isinstance(made, fl.Edit) else made.edits
        cpu = torch.device("cpu")
        return [
            (update.weight_name, update.matrix(torch.float64, cpu))
            for edit in edits
            for update in edit.updates
        ]

    return changes


def _measured(records, method, **settings: Any) -> Callable[[fl.LanguageModel, Path], Any]:
    def measure(lm: fl.LanguageModel, folder: Path) -> Any:
        known = background(lm)
        run = fl.evaluate(lm, records, method, folder / "run", background=known, **settings)
        return reports(run)[1]

    return measure


def _carried(lm: fl.LanguageModel, folder: Path) -> Any:
    """An edit saved, read, laid on and taken off, and written into a copy of the model."""
    fl.rome(lm, FACTS[0], ROME, background=background(lm)).save(folder / "edit")
    edit = fl.Edit.load(folder / "edit")
    with edit.applied(lm):
        said = lm.score([FACTS[0].prompt], [" Rome"])[0].logprob
    edit.apply_(lm)()
    edit.merge_into(lm, folder / "merged")
    edit.to_peft(folder / "adapter")
    return said


def _moments(lm: fl.LanguageModel, folder: Path) -> Any:
    corpus = fl.stats.corpus_from_texts(lm, list(PASSAGES), "passages", 300, 40)
    found = fl.stats.second_moments(lm, [0, 1], corpus=corpus)
    return [
        (layer, each.blocks if isinstance(each, fl.stats.ExpertMoments) else each.matrix)
        for layer, each in found.items()
    ]


def _trained(network: Any) -> Callable[[fl.LanguageModel, Path], Any]:
    """A step of a training, the editor read again, and what it makes of facts."""

    def train(lm: fl.LanguageModel, folder: Path) -> Any:
        records = [make_record(i, fact=replace(make_record(i).fact, subject=f"Place {i}"))
                   for i in range(12)]  # fmt: skip
        config = fl.editing.TrainConfig(
            max_steps=2, validate_every=1, examples_per_step=2, n_validation=2
        )
        data = fl.editing.examples_of_records(lm, records)
        fl.editing.train_editor(lm, data, folder / "editor", network, config)
        editor = fl.editing.load_editor(folder / "editor")
        return _edited(lambda lm: editor.edit_together(lm, FACTS))(lm, folder)

    return train


THREE = fl.neurons.NeuronConfig(steps=3, tolerance=None)
PATHS: dict[str, Callable[[fl.LanguageModel, Path], Any]] = {
    "trace blocks": _traced(kinds=("block",), positions="last_subject"),
    "trace": _traced(kinds=("block", "mlp", "attn")),
    "trace by gradients": _traced(method="gradient"),
    "trace another subject": _traced(corruption="subject:The Tower", answer="product"),
    "rome": _edited(lambda lm: fl.rome(lm, FACTS[0], ROME, background=background(lm))),
    "ft": _edited(lambda lm: fl.editing.fine_tune(lm, FACTS, "ft+l", FT)),
    "kn": _edited(
        lambda lm: fl.editing.kn(
            lm, FACTS[:1], fl.editing.KnConfig(attribution=THREE, max_neurons=4)
        )
    ),
    "sequence": _edited(
        lambda lm: fl.edit_sequence(lm, FACTS, "rome", ROME, background=background(lm))
    ),
    "statistics": _moments,
    "carried": _carried,
    "generation": lambda lm, folder: lm.generate_batch(["The tower is", "A"], 6),
    "likelihoods": _measured(make_records(2), "rome", config=ROME, measure=LIKELIHOODS),
    "questions": _measured(
        [make_zsre(i) for i in range(2)], "rome", config=ROME, measure=LIKELIHOODS,
        ordinary_text=PASSAGES,
    ),
    "texts": _measured(
        make_records(2), "rome", config=ROME, measure=TEXTS, references=REFERENCES
    ),
    "in context": _measured(make_records(2), "in-context", measure=LIKELIHOODS),
}  # fmt: skip
# Those that not every family has, or that are the same for all.
ONCE: dict[str, Callable[[fl.LanguageModel, Path], Any]] = {
    "trace all kinds": _traced(kinds=KINDS),
    "trace with noise anew": _traced(kinds=("mlp_severed",), severed_noise="anew"),
    "memit": _edited(lambda lm: fl.memit(lm, FACTS, MEMIT, background=background(lm))),
    "alphaedit": _edited(
        lambda lm: fl.editing.alphaedit(
            lm, FACTS, fl.editing.AlphaEditConfig(
                layers=(0, 1), value=MEMIT.value, contexts=MEMIT.contexts
            ), background=background(lm),
        )
    ),
    "emmet": _edited(
        lambda lm: fl.editing.emmet(
            lm, FACTS, fl.editing.EmmetConfig(
                layers=(0,), value=MEMIT.value, contexts=MEMIT.contexts
            ), background=background(lm),
        )
    ),
    "ultraedit": _edited(lambda lm: fl.editing.ultraedit(lm, FACTS)),
    "mend": _trained(fl.editing.MendConfig(n_blocks=1, rank=4)),
    "ke": _trained(fl.editing.KeConfig(n_blocks=1, hidden=4, condition=4)),
    "together": _measured(
        make_records(2), "memit", config=MEMIT, mode="together", measure=LIKELIHOODS
    ),
    "in a sequence": _measured(
        make_records(2), "rome", config=ROME, mode="sequence", measure=LIKELIHOODS
    ),
}  # fmt: skip
CASES = [
    *((family, name) for family in FAMILIES for name in PATHS),
    *((family, name) for family in OTHERS for name in ("trace blocks", "generation")),
    *(("gpt2", name) for name in ONCE),
    ("mixtral", "statistics"),
]


def _same(found: Any, expected: Any) -> None:
    """The same numbers, as near as batches of other sizes come to each other."""
    (leaves, shape), (others, other_shape) = tree_flatten(found), tree_flatten(expected)
    assert shape == other_shape
    for leaf, other in zip(leaves, others, strict=True):
        if isinstance(leaf, torch.Tensor):
            torch.testing.assert_close(leaf, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        elif isinstance(leaf, float):
            assert leaf == pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)
        else:
            assert leaf == other


@pytest.mark.parametrize(("family", "name"), CASES)
def test_paths_come_to_the_same_on_a_gpu(tmp_path, family, name):
    path = (PATHS | ONCE)[name]
    expected = path(fl.load(f"tiny:{family}", device="cpu"), tmp_path / "cpu")
    with FakeGpu() as gpu:
        lm = fl.load(f"tiny:{family}", device="cuda")
        assert lm.device == GPU
        before = {name: weight.cpu() for name, weight in lm.model.named_parameters()}
        _same(path(lm, tmp_path / "gpu"), expected)
        for name, weight in lm.model.named_parameters():
            assert gpu.holds(weight), f"{name} has left the GPU"
            assert torch.equal(weight.cpu(), before[name]), f"{name} changed"


# -- how often a GPU is waited for ------------------------------------------------------------


def _rome_of_steps(lm: fl.LanguageModel, steps: int) -> None:
    value = ROME.value.model_copy(update={"steps": steps})
    config = ROME.model_copy(update={"value": value})
    fl.rome(lm, FACTS[0], config, background=background(lm))


def _tuned_in_steps(lm: fl.LanguageModel, steps: int) -> None:
    fl.editing.fine_tune(lm, FACTS, "ft+l", FT.model_copy(update={"steps": steps}))


@pytest.mark.parametrize(("run", "most"), [(_rome_of_steps, 3), (_tuned_in_steps, 4)])
def test_a_step_waits_as_little_as_this(gpu, run, most):
    """For the loss, and where transformers looks at the positions; tuning sends its loss back."""
    lm = fl.load("tiny:llama", device="cuda")
    run(lm, 1)  # what is made once
    counts = []
    for steps in (2, 6):
        with gpu.counting() as waits:
            run(lm, steps)
        counts.append(waits.n)
    assert (counts[1] - counts[0]) / 4 <= most, waits


def test_runs_of_layers_wait_for_nothing(gpu):
    """A walk of restorations sends numbers once, and fetches what is read at its end."""
    lm = fl.load("tiny:llama", device="cuda")
    config = fl.tracing.TraceConfig(samples=2, kinds=("mlp", "attn"), window=2)
    with gpu.counting() as waits:
        fl.causal_trace(lm, FACTS[0], config=config)
    sent = [line for line, n in waits.sent.items() if "restoration" in line for _ in range(n)]
    assert len(sent) == 0
