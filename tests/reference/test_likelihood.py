"""Asking many edited models at once against one full forward pass per target, in float64."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch

import factlab as fl
from factlab.editing.combined import combine
from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.rows import TargetScore
from factlab.models.changes.carried import carrying, row_changes, substituted
from factlab.tokens import Tokens, encode, pad
from model_families import FAMILIES, HABITS, SINGLE_INSIDE

CONTEXTS = fl.editing.ContextConfig(groups=((1, 3),))
FACTS = [
    fl.Fact("{} is in the city of", "The Space Needle", "Rome", "Seattle"),
    fl.Fact("See {} in", "Paris", "Antarctica and Rome", "Seattle"),
    fl.Fact("{} plays the", "Miles Davis", "tower", "trumpet"),
]


class Text(NamedTuple):
    """A prompt, the targets it is asked for, and the number of the edit."""

    prompt: str
    targets: tuple[str, ...]
    owner: int = 0

    def question(self, lm) -> Question:
        return Question.of(lm, *self)


# Each with an owner: 0 and 1 are edited, 2 is the model as it is.
QUESTIONS = [
    Text("The Space Needle is in the city of", ("Rome", "Seattle"), 0),
    Text("The Space Needle is in the city of", ("Rome", "Seattle"), 1),
    Text("The Space Needle is in the city of", ("Rome", "Seattle"), 2),
    Text("The Space Needle is in the city of", ("Rome", "Seattle"), 0),  # once more
    # They share a beginning; one is the beginning of another; one is all there is.
    Text("Rome", ("a river; people", "a river and a", "a river", "tower"), 1),
    Text("Miles Davis plays the", ("trumpet", "a museum in Antarctica", "Rome"), 0),
    Text("Where is it? In", ("Paris",), 1),
    Text("Where is it? In", ("Paris",), 2),
    Text("A", ("Rome", "Rome"), 0),
]


def background(lm) -> fl.editing.Background:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(2)]
    )


def edit_of(lm, method: str, fact: fl.Fact) -> fl.Edit:
    chosen = method_named(method)
    value = fl.editing.ValueConfig(steps=3)
    values = {
        "rome": {"layer": 1, "value": value, "contexts": CONTEXTS},
        "memit": {"layers": (0, 1), "value": value, "contexts": CONTEXTS},
        "ft": {"layer": 1, "steps": 3, "learning_rate": 0.05},
        "attn": {"layer": 1, "steps": 3, "epsilon": 0.05, "learning_rate": 0.05},
    }[method]
    config = chosen.config(**values)
    return chosen.each(lm, [fact], config, background(lm), lambda *_: None)[0]


@torch.no_grad()
def slowly(lm, question: Text, edits) -> tuple[TargetScore, ...]:
    """One target at a time through the whole of a model whose weights are changed."""
    if edits[question.owner] is not None:
        with edits[question.owner].applied(lm):
            return slowly(lm, question, [None] * len(edits))
    found = []
    for target in question.targets:
        whole = encode(lm.tokenizer, question.prompt, target)
        n_prompt = whole.n_prompt
        logits = lm.model(torch.tensor([whole.ids])).logits[0]
        said = whole.ids[n_prompt:]
        before = logits[n_prompt - 1 : len(whole) - 1].double().log_softmax(-1)
        logprobs = tuple(float(row[i]) for row, i in zip(before, said, strict=True))
        top = tuple(int(row.argmax()) == i for row, i in zip(before, said, strict=True))
        found.append(TargetScore(logprobs=logprobs, top=top))
    return tuple(found)


def check(lm, edits, questions=QUESTIONS) -> list[tuple[TargetScore, ...]]:
    carried = row_changes(lm, [edit.updates if edit else () for edit in edits])
    heard = score_targets(lm, [each.question(lm) for each in questions], carried)
    atol = 1e-5 if lm.family in SINGLE_INSIDE else 1e-9
    for question, fast in zip(questions, heard, strict=True):
        slow = slowly(lm, question, edits)
        assert len(fast) == len(question.targets)
        for one, other in zip(fast, slow, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=atol, rel=0)
            assert one.top == other.top
    return heard


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(make_model, family):
    """Two owners with changes of both kinds, one without any; pads on either side of a row."""
    lm = make_model(family, dtype=torch.float64)
    assert lm.family == family
    edits = [edit_of(lm, "rome", FACTS[0]), edit_of(lm, "ft", FACTS[1]), None]
    heard = check(lm, edits)
    assert heard[0] == heard[3]
    # The edits do something, or nothing would have been tested.
    first, second, unedited = ([h.logprobs for h in heard[i]] for i in range(3))
    # A toy with windows of four tokens may not see the first one's subject.
    pairs = zip([*first, *second], [*unedited, *unedited], strict=True)
    assert any(one != pytest.approx(other, abs=1e-8) for one, other in pairs)


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon", "gpt_bigcode"])
@pytest.mark.parametrize("methods", [("memit", "memit"), ("attn", "attn"), ("attn", "memit")])
def test_kinds_of_edits(make_model, family, methods):
    lm = make_model(family, dtype=torch.float64, add_bos=True)
    edits = [edit_of(lm, method, fact) for method, fact in zip(methods, FACTS, strict=False)]
    check(lm, [*edits, None])


def test_ranks_that_differ_and_weights_that_several_updates_change(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    one, two, three = (edit_of(lm, "rome", fact) for fact in FACTS)
    stacked = combine([two, three])
    assert len(stacked.updates) == 2
    heard = check(lm, [one, stacked, None])
    assert heard[1] != check(lm, [one, two, None])[1]
    dense = combine([two, edit_of(lm, "ft", FACTS[2])])
    check(lm, [one, dense, None])


@pytest.mark.parametrize("memory_gib", [1e-9, 1e-4, 4e-4])
def test_batches_of_any_size(make_model, memory_gib):
    lm = make_model("gptj", dtype=torch.float64)
    edits = [edit_of(lm, "rome", FACTS[0]), edit_of(lm, "memit", FACTS[1]), None]
    lm.memory_gib = memory_gib
    check(lm, edits)


def test_the_flags_are_those_of_greedy_decoding(make_model):
    lm = make_model("gpt2", dtype=torch.float64, seed=1)
    edits = [edit_of(lm, "rome", FACTS[0]), None]
    prompts = [
        f"{a} {b} the" for a in ("Rome", "In", "See", "A tower") for b in ("is", "in", "and")
    ]
    questions: list[Question] = []
    for owner, edit in enumerate(edits):
        with applied(lm, edit):
            tops = [lm.top_tokens(prompt, 1)[0][0] for prompt in prompts]
        for prompt, word in zip(prompts, tops, strict=True):
            targets = (word, "Rome", f"{word} in", f"{word} Rome and")
            questions += [Text(prompt, targets, owner)] if word.strip(" \ufffd\n") else []
    carried, n_written = row_changes(lm, [edit.updates if edit else () for edit in edits]), 0
    heard = score_targets(lm, [each.question(lm) for each in questions], carried)
    for question, several in zip(questions, heard, strict=True):
        for target, one in zip(question.targets, several, strict=True):
            whole = encode(lm.tokenizer, question.prompt, target)
            n_prompt = whole.n_prompt
            written = decoded(lm, edits[question.owner], whole, n_prompt)
            assert all(one.top) == (written == whole.ids[n_prompt:])
            n_written += all(one.top)
    assert n_written


def decoded(lm, edit, whole, n_prompt) -> tuple[int, ...]:
    """As many ids as the target has, each the most probable one after those before it."""
    ids = list(whole.ids[:n_prompt])
    with applied(lm, edit), torch.no_grad():
        for _ in whole.ids[n_prompt:]:
            ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[n_prompt:])


def applied(lm, edit: fl.Edit | None):
    return nullcontext() if edit is None else edit.applied(lm)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_targets_that_tokenise_the_prompt_otherwise(make_model, monkeypatch, family):
    """A target may merge with what precedes it, so that paths part inside the prompt, or at once."""
    lm = make_model(family, dtype=torch.float64)
    made = {
        ("one", "a"): ((40, 41, 42, 43), 3),
        ("one", "b"): ((40, 41, 50, 51, 52, 53), 3),
        ("one", "c"): ((60, 61), 1),  # shares nothing with the others
        ("two", "a"): ((70, 71), 1),
        ("two", "b"): ((72, 73, 74), 2),
    }

    def merging(_tokenizer, prompt: str, target: str) -> Tokens:
        ids, n_prompt = made[prompt, target]
        return Tokens(prompt + target, ids, ((0, 1),) * len(ids), n_prompt)

    edits = [edit_of(lm, "rome", FACTS[0]), None]
    monkeypatch.setattr("factlab.tokens.encode", merging)
    monkeypatch.setitem(globals(), "encode", merging)
    questions = [Text("one", ("a", "b", "c"), 0), Text("two", ("a", "b"), 1)]
    check(lm, edits, questions)
    check(lm, edits, questions[1:])


def test_no_question_and_no_edit(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    assert score_targets(lm, [], {}) == []
    plain = [Text(q.prompt, q.targets) for q in QUESTIONS]
    heard = score_targets(lm, [each.question(lm) for each in plain], {})
    for question, fast in zip(plain, heard, strict=True):
        for one, other in zip(fast, slowly(lm, question, [None]), strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)


def test_what_is_read_is_bounded(make_model, monkeypatch):
    """Logits of a few tokens at a time, whatever the batch."""
    lm = make_model("gpt2", dtype=torch.float64)
    wanted = score_targets(lm, [each.question(lm) for each in QUESTIONS], {})
    monkeypatch.setattr(type(lm.budget), "readout_tokens", 3)
    for several, others in zip(
        score_targets(lm, [each.question(lm) for each in QUESTIONS], {}),
        wanted,
        strict=True,
    ):
        for one, other in zip(several, others, strict=True):
            assert one.top == other.top
            assert math.fsum(one.logprobs) == pytest.approx(math.fsum(other.logprobs), abs=1e-9)


def test_what_cannot_be_asked(make_model):
    lm = make_model("gpt2")
    for prompt, target, message in (
        ("Rome is", " ", "target is empty"),
        ("", "Rome", "prompt is empty"),
        ("a " * 300, "Rome", "Shorten it"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            Text(prompt, (target,)).question(lm)


def test_hooks_are_gone_after_an_exception(make_model):
    lm = make_model("gpt2")  # the fixture looks at the hooks at the end
    carried = row_changes(lm, [edit_of(lm, "rome", FACTS[0]).updates])
    with pytest.raises(KeyboardInterrupt), carrying(lm, carried, [0]):
        raise KeyboardInterrupt
    before = score_targets(lm, [QUESTIONS[6].question(lm)], {})
    assert before == score_targets(lm, [QUESTIONS[6].question(lm)], {})


# -- owners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mpt"])
@pytest.mark.parametrize("method", ["rome", "ft"])
def test_owners_for_another_number_of_rows_are_refused(make_model, family, method):
    """Also those that would divide the batch evenly."""
    lm = make_model(family)
    changes = row_changes(lm, [edit_of(lm, method, FACTS[0]).updates, ()])
    batch = pad([lm.encode("Rome is in").ids] * 4, lm.device)
    for owners in ([0], [0, 1], [0] * 3, [0] * 5, [0] * 8):
        with (
            pytest.raises(InvalidRequestError, match="The batch has 4 rows"),
            carrying(lm, changes, owners), lm.frozen(), torch.no_grad(),
        ):  # fmt: skip
            lm.run(lm.frame(batch))
    with (
        pytest.raises(InvalidRequestError, match="no owners"),
        carrying(lm, changes, None) if method == "rome" else stacked(lm, 2), lm.frozen(),
        torch.no_grad(),
    ):  # fmt: skip
        lm.run(lm.frame(batch))


def stacked(lm, n):
    """Two weights and nobody to say whose is which."""
    return substituted(lm, {lm.mlp_weight_name(1): lm.mlp_weight(1).detach().expand(n, -1, -1)})


@pytest.mark.parametrize("owners", [[0, 1, 2, 3], [0, 0, 1, 1], [3, 0, 3, 1], [2, 2, 2, 2]])
@pytest.mark.parametrize("family", HABITS)
def test_rows_carry_their_owners_weights_with_gradients(make_model, family, owners):
    """Against the model with each weight in turn, values and gradients."""
    lm = make_model(family, dtype=torch.float64)
    name, generator = lm.mlp_weight_name(1), torch.Generator().manual_seed(0)
    weight = lm.mlp_weight(1).detach()
    noise = torch.randn(4, *weight.shape, generator=generator, dtype=torch.float64)
    stack = (weight + 0.1 * noise)[: max(owners) + 1].requires_grad_(True)
    batch = pad([lm.encode(t).ids for t in ("Rome is in", "A", "In Paris", "The")], lm.device)
    with lm.frozen(), substituted(lm, {name: stack}, owners):
        states = lm.run(lm.frame(batch))
    (found,) = torch.autograd.grad(states[batch.is_token].square().sum(), [stack])
    expected = torch.zeros_like(found)
    for row, owner in enumerate(owners):
        one = stack.detach()[owner].clone().requires_grad_(True)
        with lm.frozen(), substituted(lm, {name: one}):
            alone = lm.run(lm.frame(batch))[row][batch.is_token[row]]
        assert torch.allclose(states[row][batch.is_token[row]], alone, atol=1e-5)
        expected[owner] += torch.autograd.grad(alone.square().sum(), [one])[0]
    assert torch.allclose(found, expected, atol=1e-4 if family in SINGLE_INSIDE else 1e-8)
