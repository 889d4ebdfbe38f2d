"""Threads that share a model wait for each other, and nobody meets what another is doing to it."""

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

import factlab as fl
from factlab.hooks import Site, Stream, intervene
from factlab.models import LowRankUpdate
from factlab.models.changes.carried import carrying, row_changes

FACT = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
PROMPTS = [["The Louvre is in"], ["Miles Davis plays the trumpet, and"], ["A"], ["Where is it?"]]
TRACE = fl.tracing.TraceConfig(samples=1, window=1, kinds=("mlp",))


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Threads take turns every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def at_once(*tasks: Callable[[], None]) -> None:
    """Run each task in a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def change(lm: fl.LanguageModel) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(lm.d_model, 2, generator=generator)
    right = torch.randn(2, lm.d_mlp, generator=generator)
    return LowRankUpdate(lm.mlp_weight_name(1), lm.mlp_layout, left, right)


@pytest.fixture
def edit(make_model) -> fl.Edit:
    lm = make_model("llama")
    config = fl.editing.FineTuneConfig(layer=1, steps=3, learning_rate=0.05)
    return fl.editing.fine_tune(lm, [FACT], "ft", config)


def test_scores_are_each_threads_own_and_the_model_is_as_before(make_model):
    lm = make_model("llama")
    lm.model.train()
    expected = [lm.next_token_probs(prompts) for prompts in PROMPTS]

    def score(number: int) -> None:
        for _ in range(30):
            torch.testing.assert_close(lm.next_token_probs(PROMPTS[number]), expected[number])

    at_once(*(lambda number=number: score(number) for number in range(len(PROMPTS))))
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert all(module.training for module in lm.model.modules())
    assert not any("forward" in vars(module) for module in lm.model.modules())
    lm.model.eval()


def test_traces_beside_scores(make_model):
    lm = make_model("gpt2")
    traced = fl.causal_trace(lm, FACT, config=TRACE).effects["mlp"]
    scored = lm.next_token_probs(["Rome is"])

    def trace() -> None:
        for _ in range(5):
            again = fl.causal_trace(lm, FACT, config=TRACE).effects["mlp"]
            torch.testing.assert_close(again, traced, equal_nan=True)

    def score() -> None:
        for _ in range(25):
            torch.testing.assert_close(lm.next_token_probs(["Rome is"]), scored)

    at_once(trace, score, trace, score)


def test_traces_while_another_thread_applies_an_edit(make_model, edit):
    lm = make_model("llama")
    traced = fl.causal_trace(lm, FACT, config=TRACE)

    def on_and_off() -> None:
        for _ in range(20):
            with edit.applied(lm):
                pass
            with lm.lock:
                edit.apply_(lm)()

    def trace() -> None:
        for _ in range(5):
            again = fl.causal_trace(lm, FACT, config=TRACE)
            torch.testing.assert_close(again.effects["mlp"], traced.effects["mlp"], equal_nan=True)

    with edit.applied(lm):
        assert fl.causal_trace(lm, FACT, config=TRACE).clean_prob != traced.clean_prob
    at_once(on_and_off, trace)


def test_edits_on_and_off_in_two_threads(make_model, edit):
    lm = make_model("llama")
    before = lm.next_token_probs(PROMPTS[0])
    with edit.applied(lm):
        edited = lm.next_token_probs(PROMPTS[0])

    def twenty_times() -> None:
        for _ in range(20):
            with edit.applied(lm):
                assert torch.equal(lm.next_token_probs(PROMPTS[0]), edited)

    at_once(twenty_times, twenty_times)
    assert torch.equal(lm.next_token_probs(PROMPTS[0]), before)


def test_tokenizers_whose_settings_are_changed_for_each_text(make_model):
    lm = make_model("llama")
    lm.tokenizer.backend_tokenizer.enable_truncation(3)
    expected = [lm.encode(prompts[0]) for prompts in PROMPTS]

    def encode(number: int) -> None:
        for _ in range(200):
            assert lm.encode(PROMPTS[number][0]) == expected[number]

    at_once(*(lambda number=number: encode(number) for number in range(len(PROMPTS))))
    assert lm.tokenizer.backend_tokenizer.truncation is not None
    lm.tokenizer.backend_tokenizer.no_truncation()


def _frozen(lm: fl.LanguageModel, _update: LowRankUpdate):
    return lm.frozen()


def _intervening(lm: fl.LanguageModel, _update: LowRankUpdate):
    return intervene(lm, {Site(1, Stream.MLP): torch.zeros_like})


def _rows(lm: fl.LanguageModel, update: LowRankUpdate):
    return carrying(lm, row_changes(lm, [[update]]), [0])


def _lifted(lm: fl.LanguageModel, _update: LowRankUpdate):
    return lm.patches.lifted()


@pytest.mark.parametrize("block", [_frozen, _intervening, _rows, _lifted])
@pytest.mark.parametrize(
    "other",
    [
        lambda lm: lm.next_token_probs(["Rome is"]),
        lambda lm: lm.score(["Rome is"], ["Paris"]),
        lambda lm: lm.generate("Rome is", 2),
        lambda lm: fl.causal_trace(lm, FACT, config=TRACE),
        lambda lm: lm.encode("Rome is"),
        lambda lm: lm.continuation("Rome is", "Paris"),
        lambda lm: lm.patches.add([]),
        lambda lm: lm.fingerprint,
    ],
)
def test_a_block_keeps_other_threads_out(make_model, block, other):
    lm = make_model("gpt2")
    inside, update, ended = threading.Event(), change(lm), list[str]()

    def stay() -> None:
        with block(lm, update):
            inside.set()
            for _ in range(50):  # long enough that the other would be through
                threading.Event().wait(0.002)
            ended.append("block")

    def meanwhile() -> None:
        inside.wait()
        other(lm)
        ended.append("other")

    at_once(stay, meanwhile)
    assert ended == ["block", "other"]


def test_one_thread_may_enter_again(make_model):
    lm = make_model("gpt2")
    with lm.lock, lm.frozen(), intervene(lm, {}), lm.patches.lifted():
        assert lm.next_token_probs(["Rome is"]).shape[0] == 1


def test_long_runs_let_others_in_between(make_model, tmp_path):
    """What another thread asks is answered before the last step."""
    lm = make_model("gpt2")
    facts = [fl.Fact("{} is in the", subject) for subject in ("Rome", "Paris", "Seattle")]
    answered, label = threading.Event(), "tracing facts"

    def progress(told: str, done: int, _total: int) -> None:
        if told == label and done == 1:
            thread = threading.Thread(target=ask)
            thread.start()
            assert answered.wait(20)
            thread.join()

    def ask() -> None:
        lm.next_token_probs(["Rome is"])
        answered.set()

    fl.average_trace(lm, facts, TRACE, tmp_path / "average", progress=progress)
    assert answered.is_set()
