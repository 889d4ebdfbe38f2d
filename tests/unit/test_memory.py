"""Memory that may be used bounds every pass through a model, and what ran out can be gone on with."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_records import FT, PASSAGES, ROME, background, make_records

import factlab as fl
from factlab.data.records import Record
from factlab.errors import MemoryLimitError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.running.run import evaluate
from factlab.journal import merge
from factlab.models.answering import answers
from factlab.models.budget import GIB
from factlab.models.engines.replay import Replay

FACTS = [record.fact for record in make_records(5)]
PROMPTS = [fact.prompt for fact in FACTS]
UNKNOWN = [fl.Fact(fact.template, fact.subject) for fact in FACTS[:4]]
TRACE = fl.tracing.TraceConfig(samples=3, window=2)
NEURONS = fl.neurons.NeuronConfig(steps=3, tolerance=None)
MEASURE = MeasureConfig(n_generated=2, text_tokens=12, drift_tokens=70)
MEND = fl.editing.MendConfig(n_blocks=2, rank=4)
KE = fl.editing.KeConfig(n_blocks=2, hidden=4, condition=4)
TRAINING = fl.editing.TrainConfig(
    max_steps=3, validate_every=2, learning_rate=1e-3, examples_per_step=3, n_validation=3
)
UNRELATED = TRAINING.n_unrelated


@pytest.fixture
def lm(make_model):
    return make_model("llama")


def training_set(lm):
    records = [
        Record(
            case_id=i,
            benchmark="counterfact",
            relation_id="P36",
            fact=fl.Fact("{} is in", f"Place {i}", "Rome and Paris" if i % 2 else "Rome"),
            paraphrase_prompts=(f"Where is Place {i}? In", f"Place {i} is a city in"),
            neighborhood_prompts=("The Space Needle is in", "Miles Davis plays", "Who is"),
        )
        for i in range(16)
    ]
    return fl.editing.examples_of_records(lm, records)


# -- how much goes through a model at once ---------------------------------------------------------


class Pass(NamedTuple):
    """Rows and columns that enter a layer, and whether it is kept for a backward pass."""

    n_rows: int
    n_columns: int
    is_kept: bool


@contextmanager
def counted(lm) -> Iterator[list[Pass]]:
    """Every pass through a layer inside the block."""
    seen: list[Pass] = []

    def note(_layer, args, kwargs) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(Pass(*hidden.shape[:2], torch.is_grad_enabled()))

    handles = [
        lm.layer(i).register_forward_pre_hook(note, with_kwargs=True) for i in range(lm.n_layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def trained(network) -> "Prepare":
    return lambda lm, folder: partial(
        fl.editing.train_editor, lm, training_set(lm), folder, network, TRAINING
    )


def edited(network) -> "Prepare":
    def prepare(lm, folder):
        editor = trained(network)(lm, folder)().editor
        return partial(editor.edits, lm, FACTS)

    return prepare


def layerwise(write, kind) -> "Prepare":
    config = kind(layers=(0, 1), value=ROME.value, contexts=ROME.contexts)
    return lambda lm, _: partial(write, lm, FACTS, config, background(lm))


def evaluated(lm, folder):
    return partial(
        evaluate, lm, make_records(3), "rome", folder, ROME, measure=MEASURE,
        ordinary_text=PASSAGES, background=background(lm), cache=folder.with_name(f"{folder.name}-cache"),
    )  # fmt: skip


# From a model and a folder to what runs the model.
Prepare = Callable[[fl.LanguageModel, Path], Callable[[], object]]


class Case(NamedTuple):
    """Something that runs a model, and how many rows of it cannot be divided."""

    prepare: Prepare
    n_rows: int = 1


GRADIENT = TRACE.model_copy(update={"method": "gradient"})
CORPUS = fl.stats.StatsConfig(tokens_per_dim=8, row_length=16)
KN = fl.editing.KnConfig(attribution=NEURONS)
editing = fl.editing
CASES = {
    "trace": Case(lambda lm, _: partial(fl.causal_trace, lm, FACTS[4], config=TRACE)),
    "gradient": Case(lambda lm, _: partial(fl.causal_trace, lm, FACTS[4], config=GRADIENT)),
    "average": Case(lambda lm, _: partial(fl.average_trace, lm, UNKNOWN, TRACE)),
    "rome": Case(lambda lm, _: partial(editing.rome_each, lm, FACTS, ROME, background(lm))),
    "memit": Case(layerwise(fl.memit, editing.MemitConfig)),
    "emmet": Case(layerwise(editing.emmet, editing.EmmetConfig)),
    "alphaedit": Case(layerwise(editing.alphaedit, editing.AlphaEditConfig)),
    "ultraedit": Case(lambda lm, _: partial(fl.editing.ultraedit, lm, FACTS)),
    "fine-tuning": Case(lambda lm, _: partial(editing.fine_tune, lm, FACTS, "ft", FT)),
    "each": Case(lambda lm, _: partial(editing.fine_tune_each, lm, FACTS, "ft", FT)),
    "kn": Case(lambda lm, _: partial(editing.kn, lm, FACTS, KN)),
    "neurons": Case(lambda lm, _: partial(fl.attribute_neurons, lm, PROMPTS[0], config=NEURONS)),
    "second moments": Case(
        lambda lm, _: partial(fl.stats.second_moments, lm, [0, 1], CORPUS, recompute=True)
    ),
    "texts": Case(lambda lm, _: partial(lm.generate_batch, PROMPTS, 4)),
    "scores": Case(lambda lm, _: partial(lm.score, PROMPTS, ["Rome"] * len(PROMPTS))),
    "next tokens": Case(lambda lm, _: partial(lm.next_token_probs, PROMPTS)),
    "evaluation": Case(evaluated),
    "answers": Case(lambda lm, _: partial(answers, lm, FACTS)),
    "mend": Case(trained(MEND), UNRELATED),
    "ke": Case(trained(KE), UNRELATED),
    "edits by mend": Case(edited(MEND)),
    "edits by ke": Case(edited(KE)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_pass_holds_more_than_there_is_memory_for(lm, case, tmp_path):
    """Or else what cannot be divided. With more memory there are fewer passes."""
    n_passes: list[int] = []
    sizes = lm.budget.sizes
    for gib in (1e-9, 1e-4, 1.0):
        lm.memory_gib = None
        run = case.prepare(lm, tmp_path / str(gib))
        lm.memory_gib = gib
        with counted(lm) as passes:
            run()
        n_passes.append(len(passes))
        for one in passes:
            each = sizes.gradient if one.is_kept else sizes.layer + 2 * sizes.state
            fits = one.n_rows * one.n_columns * each <= gib * GIB
            assert fits or one.n_rows <= case.n_rows, (gib, one)
    assert n_passes[0] >= n_passes[1] >= n_passes[2]
    assert n_passes[0] > n_passes[2]


# -- a run that failed for memory ------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch) -> Callable[[int], None]:
    """Let memory run out where more tokens than some go through a layer together."""
    step = Replay.step

    def make(most: int) -> None:
        def fails(engine, frame, hidden, layer):
            if hidden.shape[0] * hidden.shape[1] > most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return step(engine, frame, hidden, layer)

        monkeypatch.setattr(Replay, "step", fails)

    return make


def follow_the_advice(lm, run):
    """Do what the message says until there is memory enough; what came of it, and how often."""
    n_told = 0
    while True:
        try:
            return run(), n_told
        except MemoryLimitError as error:
            (gib,) = re.findall(r"lm\.memory_gib = (\S+) in Python", str(error))
            lm.memory_gib = float(gib)
            n_told += 1


def close(one, other) -> None:
    """Numbers, and lists and tables of them, up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.endswith("_s"):  # what a stopwatch found
                close(value, other[name])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            close(*pair)
    else:
        assert one == (
            pytest.approx(other, rel=1e-4, abs=1e-6) if isinstance(one, float) else other
        )


def averaged(lm, folder):
    return partial(fl.average_trace, lm, UNKNOWN, TRACE, folder, resume=True)


RUNS = {
    "average": (averaged, lambda average: average.to_json()),
    "evaluation": (
        lambda lm, folder: partial(evaluated(lm, folder), resume=True, batch_size=1),
        lambda run: run.table(),
    ),
    "training": (
        lambda lm, folder: partial(trained(MEND)(lm, folder), resume=True),
        lambda trained: trained.rows(),
    ),
}


@pytest.mark.parametrize(("prepare", "told"), RUNS.values(), ids=RUNS.keys())
def test_following_the_advice_brings_a_run_to_its_end(lm, prepare, told, small_machine, tmp_path):
    lm.memory_gib = 1e-2
    undisturbed = told(prepare(lm, tmp_path / "undisturbed")())
    small_machine(70)  # a row of ordinary text has 64
    found, n_told = follow_the_advice(lm, prepare(lm, tmp_path / "small"))
    assert n_told > 0
    close(told(found), undisturbed)


def with_old_settings(folder: Path) -> None:
    """Make a run one that an earlier version began, with little memory."""
    path = folder / "run.json"
    header = json.loads(path.read_text())
    for part in header.values():
        config = part.get("config")
        if isinstance(config, dict):
            config |= {"max_batch_tokens": 1, "memory_gib": 1e-9, "examples_at_once": 1}
            for inner in config.values():
                if isinstance(inner, dict):
                    inner["max_batch_tokens"] = 1
    path.write_text(json.dumps(header))


def stop_at_two(_label, done, _total):
    if done == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("prepare", "told"), RUNS.values(), ids=RUNS.keys())
def test_a_run_of_an_earlier_version_goes_on_with_the_memory_of_now(lm, prepare, told, tmp_path):
    lm.memory_gib = 1.0
    undisturbed = told(prepare(lm, tmp_path / "whole")())
    n_passes = []
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(KeyboardInterrupt):
            prepare(lm, folder)(progress=stop_at_two)
        if folder.name == "old":
            with_old_settings(folder)
        with counted(lm) as passes:
            found = prepare(lm, folder)()
        n_passes.append(len(passes))
        close(told(found), undisturbed)
    assert n_passes[0] == n_passes[1]


def test_a_run_of_an_earlier_version_goes_on_to_more_and_is_merged(lm, tmp_path):
    whole = fl.average_trace(lm, UNKNOWN, TRACE).to_json()
    fl.average_trace(lm, UNKNOWN, TRACE, tmp_path / "more", limit=1)
    with_old_settings(tmp_path / "more")
    more = fl.average_trace(lm, UNKNOWN, TRACE, tmp_path / "more", limit=4, resume=True)
    close(more.to_json(), whole)
    for k in (1, 2):
        fl.average_trace(lm, UNKNOWN, TRACE, tmp_path / str(k), shard=fl.Shard(k, 2))
    with_old_settings(tmp_path / "1")
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    close(fl.AverageTrace.load(tmp_path / "merged").to_json(), whole)
