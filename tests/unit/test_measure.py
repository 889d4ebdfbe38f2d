"""Measuring records on many edited models in one batch, against doing it one by one."""

import math
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
import torch
from tiny_records import FT, MEMIT, REFERENCES, ROME, background, make_record, make_records

from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import asks
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.ordinary_text import OrdinaryText
from factlab.evaluation.measuring.rows import Drift
from factlab.evaluation.measuring.yardstick import Yardstick, is_finite
from factlab.models.changes.carried import row_changes
from factlab.models.generation import generate_ids
from model_families import HABITS

PASSAGES = ("The Colosseum is in Rome. " * 16, "People speak many languages there, in Paris.")
LENGTH = 16


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def edits_of(lm, records):
    """One kind of change after the other: rank one, two layers, dense."""
    known, edits = background(lm), []
    for i, record in enumerate(records):
        name, config = (("rome", ROME), ("memit", MEMIT), ("ft", FT))[i % 3]
        each = method_named(name).each
        edits += each(lm, [record.fact], config, known, lambda *_: None)
    return edits


def config(**changes) -> MeasureConfig:
    return MeasureConfig(**{"text_tokens": LENGTH} | changes)


def texts_by_hand(lm, record, settings) -> list[str]:
    """One prompt at a time, one token at a time, no cache: the numbers of the record's streams."""
    texts = []
    for number, prompt in enumerate(record.generation_prompts):
        ids = list(lm.encode(prompt).ids)
        n_prompt, room = len(ids), max(0, settings.text_tokens - len(lm.encode(prompt).ids))
        digest = sha256(f"{settings.seed} {record.case_id * 1000 + number}".encode()).digest()
        stream = int.from_bytes(digest[:8], "big") % 2**63
        draws = torch.rand(room, generator=torch.Generator().manual_seed(stream))
        for draw in draws:
            with torch.no_grad():
                logits = lm.model(torch.tensor([ids])).logits[0, -1].float()
            values, places = logits.topk(settings.top_k or len(logits))
            cumulative = values.softmax(-1).cumsum(-1)
            chosen = int((cumulative <= draw * cumulative[-1]).sum().clamp(max=len(values) - 1))
            token_id = int(places[chosen])
            if token_id == lm.tokenizer.eos_token_id:
                break
            ids.append(token_id)
        decode = lm.tokenizer.decode
        before = decode(ids[:n_prompt], skip_special_tokens=True)
        texts.append(prompt.rstrip(" ") + decode(ids, skip_special_tokens=True)[len(before) :])
    return texts


@pytest.mark.parametrize("family", HABITS)
@pytest.mark.parametrize("top_k", [1, 5])
def test_texts_are_those_of_each_edited_model_alone(make_model, family, top_k):
    """Prompts of different lengths end at different steps, and so leave the batch in between."""
    lm = make_model(family, dtype=torch.float64)
    records = [make_record(0), make_record(3), make_record(7, generation_prompts=("Rome " * 20,))]
    edits = edits_of(lm, records)
    settings = config(top_k=top_k, seed=3)
    yardstick = Yardstick(lm, settings, {})
    found = yardstick.measure(records, edits, [True] * 3)
    alone = [
        yardstick.measure([record], [edit], [True])[0]
        for record, edit in zip(records, edits, strict=True)
    ]
    for record, edit, one, other in zip(records, edits, found, alone, strict=True):
        with edit.applied(lm):
            assert list(one.written.texts) == texts_by_hand(lm, record, settings)
        assert one.written == other.written
    assert found[2].written.texts == (("Rome " * 20).rstrip(),), "no room is left to write in"


def test_rows_that_end_leave_the_batch(lm):
    """What is told to run are the rows that are open; each gets what it would get alone."""
    rows = [list(lm.encode(text).ids) for text in ("Rome", "In Paris the", "A", "See it", "The")]
    room = [1, 9, 0, 4, 2]
    seen: list[list[int]] = []
    found = generate_ids(
        lm,
        rows,
        room,
        5,
        1,
        streams=[7, 8, 9, 2**70, 7],
        under=lambda now: nullcontext(seen.append([*now])),
    )
    for row, n, stream, new in zip(rows, room, [7, 8, 9, 2**70, 7], found, strict=True):
        assert len(new) <= n
        assert generate_ids(lm, [row], n, 5, 1, streams=[stream]) == [new]
    assert seen[0] == [0, 1, 3, 4]
    assert {2} not in [set(rows) for rows in seen]
    assert all(set(after) <= set(before) for before, after in pairwise(seen))
    assert len(seen[-1]) < len(seen[0])


def test_likelihoods_are_those_of_each_edited_model_alone(lm):
    records = make_records(3)
    edits = edits_of(lm, records)
    found = Yardstick(lm, config(n_generated=0), {}).measure(records, edits, [False] * 3)
    for record, edit, one in zip(records, edits, found, strict=True):
        with edit.applied(lm):
            (plain,) = Yardstick(lm, config(n_generated=0), {}).measure([record], None, [False])
        for group in ("rewrite", "paraphrase", "neighborhood"):
            for mine, other in zip(getattr(one, group), getattr(plain, group), strict=True):
                assert mine.new.logprobs == pytest.approx(other.new.logprobs, abs=1e-9)
                assert mine.true.logprobs == pytest.approx(other.true.logprobs, abs=1e-9)
        assert len(one.neighborhood) == 3
        assert one.neighborhood[0] == one.neighborhood[2], "a neighbour that repeats counts twice"
        assert (one.written, one.essence_nll, one.drift) == (None, None, None)


@torch.no_grad()
def logprobs_of(lm, ids):
    return lm.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def test_essence_is_the_mean_nll_of_texts_about_the_subject(lm):
    records = make_records(4)  # there is no text about the last one's subject
    long = {
        ("P1", "x"): (replace(REFERENCES["P36", "Antarctica"][0], text="Rome is a city " * 99),)
    }
    short = {("P1", "y"): (replace(REFERENCES["P36", "Antarctica"][0], text="A"),)}
    references = REFERENCES | long | short
    edits = edits_of(lm, records)
    settings = config(n_generated=0, essence=True)
    found = Yardstick(lm, settings, references).measure(records, edits, [False] * 4)
    for record, edit, one in zip(records, edits, found, strict=True):
        nlls = []
        with edit.applied(lm):
            for text in (t for own in references.values() for t in own):
                ids = lm.tokenizer(text.text)["input_ids"][:100]
                if text.subject == record.fact.subject and len(ids) > 1:
                    said = logprobs_of(lm, ids).gather(1, torch.tensor(ids[1:])[:, None])
                    nlls.append(-float(said.mean()))
        assert one.essence_nll == (pytest.approx(sum(nlls) / len(nlls)) if nlls else None)
    assert found[0].essence_nll is not None
    assert found[3].essence_nll is None


@pytest.mark.parametrize("n_tokens", [30, 64, 90, 65])
def test_drift_against_its_formula(lm, n_tokens):
    records = make_records(3)
    edits = edits_of(lm, records)
    settings = config(n_generated=0, drift_tokens=n_tokens)
    yardstick = Yardstick(lm, settings, {}, PASSAGES)
    found = yardstick.measure(records, edits, [False] * 3)
    ids = [i for text in PASSAGES for i in lm.encode(text).ids][:n_tokens]
    pieces = [piece for at in range(0, n_tokens, 64) if len(piece := ids[at : at + 64]) > 1]
    before = [logprobs_of(lm, piece) for piece in pieces]
    for edit, one in zip(edits, found, strict=True):
        with edit.applied(lm):
            after = [logprobs_of(lm, piece) for piece in pieces]
        kl = torch.cat([(b.exp() * (b - a)).sum(-1) for a, b in zip(after, before, strict=True)])
        said = [
            a.gather(1, torch.tensor(p[1:])[:, None]) for a, p in zip(after, pieces, strict=True)
        ]
        assert one.drift.kl == pytest.approx(float(kl.mean()), rel=1e-6)
        assert one.drift.nll == pytest.approx(-float(torch.cat(said).mean()))
        assert one.drift.kl > 0
    for plain in yardstick.measure(records, None, [False] * 3):
        assert plain.drift.kl == 0
    with edits[0].applied(lm):  # one model with an edit, as for edits written together
        assert yardstick.measure(records[:1], None, [False])[0].drift.kl == pytest.approx(
            found[0].drift.kl
        )
        # Made while an edit is on, it compares with the model without it all the same.
        made_now = Yardstick(lm, settings, {}, PASSAGES).measure(records[:1], None, [False])
        assert made_now[0].drift.kl == pytest.approx(found[0].drift.kl)


@pytest.mark.parametrize("n_tokens", [1, 9999])
def test_too_little_ordinary_text(lm, n_tokens):
    with pytest.raises(InvalidRequestError, match="drift tokens"):
        Yardstick(lm, config(drift_tokens=n_tokens), {}, PASSAGES)


def test_memory_changes_nothing_but_rounding(make_model):
    lm = make_model("llama", dtype=torch.float64)
    records = make_records(4)
    edits = edits_of(lm, records)
    settings = config(essence=True, drift_tokens=70, top_k=3)

    def measured(memory_gib):
        lm.memory_gib = memory_gib
        yardstick = Yardstick(lm, settings, REFERENCES, PASSAGES)
        return yardstick.measure(records, edits, [True, True, False, True])

    wanted, *others = (
        measured(memory_gib) for memory_gib in (4.0, 1e-9, 3e-4, 1e-3)
    )  # fmt: skip
    for found in others:
        for one, other in zip(found, wanted, strict=True):
            assert one.written == other.written
            assert one.essence_nll == (other.essence_nll and pytest.approx(other.essence_nll))
            assert one.drift.kl == pytest.approx(other.drift.kl, rel=1e-6)
            assert one.rewrite[0].new.logprobs == pytest.approx(other.rewrite[0].new.logprobs)


def test_consistency_and_entropy(lm):
    records = [make_record(0), make_record(1), make_record(2)]
    found = Yardstick(lm, config(), REFERENCES).measure(records, None, [True, True, False])
    assert found[0].written.consistency is not None
    assert found[0].written.entropy > 0
    assert found[0].written.no_consistency == ""
    assert found[1].written.consistency is None
    assert (
        found[1].written.no_consistency
        == "there are no references for some objects of relation P36"
    )
    assert found[2].written is None
    (bare,) = Yardstick(lm, config(), {}).measure(records[:1], None, [True])
    assert bare.written.no_consistency == "there are no references"
    (mute,) = Yardstick(lm, config(), {}).measure(
        [make_record(0, generation_prompts=())], None, [True]
    )
    assert mute.written is None


def test_what_no_model_can_write(lm):
    with pytest.raises(TokenizationError, match="takes at most 256"):
        Yardstick(lm, config(text_tokens=257), {})
    Yardstick(lm, config(text_tokens=257, n_generated=0), {})


def test_hooks_and_frozen_weights_end_with_an_exception(lm, monkeypatch):
    """Whatever is under way; the fixture looks at hooks, flags and modes at the end."""
    records = make_records(2)
    edits = edits_of(lm, records)
    yardstick = Yardstick(lm, config(drift_tokens=70, essence=True), REFERENCES, PASSAGES)
    for name in ("likelihood._read", "ordinary_text._nll", "written_texts.generate_ids"):
        with monkeypatch.context() as broken:
            broken.setattr(f"factlab.evaluation.measuring.{name}", _interrupted)
            with pytest.raises(KeyboardInterrupt) as stopped:
                yardstick.measure(records, edits, [True] * 2)
            parameter = next(lm.model.parameters())
            assert stopped.value.__traceback__ is not None
            assert parameter.requires_grad, f"{name}: frozen as long as the traceback lives"
            assert not any(module._forward_hooks for module in lm.model.modules())
            assert not any("forward" in vars(module) for module in lm.model.modules())


def _interrupted(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_what_is_finite(lm):
    (found,) = Yardstick(lm, config(n_generated=0), {}).measure(make_records(1), None, [False])
    assert is_finite(found)
    heard = found.rewrite[0].true.model_copy(update={"logprobs": (math.nan,)})
    asked = found.rewrite[0].model_copy(update={"true": heard})
    for change in (
        {"neighborhood": (asked,)},
        {"drift": Drift(kl=math.nan, nll=1.0)},
        {"drift": Drift(kl=0.0, nll=math.inf)},
        {"essence_nll": math.nan},
    ):
        assert not is_finite(found.model_copy(update=change))


def test_a_model_that_breaks_does_not_look_unchanged(lm):
    """NaN is no drift of 0."""
    records = make_records(1)
    (edit,) = edits_of(lm, records)
    (update,) = edit.updates
    broken = replace(edit, updates=(replace(update, left=update.left * math.nan),))
    yardstick = Yardstick(lm, config(n_generated=0, drift_tokens=20), {}, PASSAGES)
    (found,) = yardstick.measure(records, [broken], [False])
    assert math.isnan(found.drift.kl)
    assert not is_finite(found)


def test_equal_questions_are_asked_once(lm, monkeypatch):
    rows = []
    run = type(lm).frame
    monkeypatch.setattr(
        type(lm),
        "frame",
        lambda self, batch, *a, **k: rows.append(batch.n_rows) or run(self, batch, *a, **k),
    )
    question = Question.of(lm, "Rome is", ("Paris",))
    first, second = score_targets(lm, [question] * 2, {})
    assert first == second
    assert rows == [1]
    carried = row_changes(lm, [(), ()])
    score_targets(lm, [replace(question, owner=i) for i in range(2)], carried)
    assert rows == [1, 2], "owners are different models"


def test_a_record_is_tokenised_once_for_checking_before_and_after(lm, tmp_path, monkeypatch):
    texts = []
    kind = type(lm.tokenizer)
    call = kind.__call__
    monkeypatch.setattr(
        kind, "__call__", lambda self, text, **k: texts.append(text) or call(self, text, **k)
    )
    records = make_records(2)
    yardstick = Yardstick(lm, config(n_generated=0), {})
    for record in records:
        yardstick.texts.check(record)
    n_texts = len(texts)
    for _ in range(2):
        yardstick.measure(records, None, [False, False])
    assert len(texts) == n_texts
    per_record = [sum(len(ask.targets) for ask in asks(record)) for record in records]
    assert n_texts == sum(per_record) + sum(1 + len(r.generation_prompts) for r in records)


@pytest.mark.parametrize("add_bos", [True, False])
def test_rows_of_ordinary_text_begin_as_texts_do(make_model, add_bos):
    lm = make_model("llama", add_bos=add_bos)
    text = OrdinaryText(lm, PASSAGES, 130)
    bos = lm.tokenizer.bos_token_id
    assert [row.count(bos) for row in text._rows] == [int(add_bos)] * len(text._rows)
    assert all(row[0] == bos for row in text._rows) == add_bos
    assert max(map(len, text._rows)) == 64
    plain = [
        i for passage in PASSAGES for i in lm.tokenizer(passage.rstrip())["input_ids"] if i != bos
    ]
    assert [i for row in text._rows for i in row if i != bos] == plain[:130]
