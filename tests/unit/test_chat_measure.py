"""Records asked in the chat template as well: against one text at a time, and into every report."""

import json

import pytest
import torch
from chat_templates import DATED, SHORT
from tiny_records import FT, MEMIT, ROME, background, make_record, make_records, make_zsre, reports

from factlab.data.record_files import save_records
from factlab.data.ripple.compile import with_ripple
from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring import likelihood
from factlab.evaluation.measuring.asked_texts import asks
from factlab.evaluation.measuring.rows import InChat
from factlab.evaluation.measuring.yardstick import Yardstick, is_finite
from factlab.evaluation.reporting.notes import notes
from factlab.evaluation.reporting.report import report as build_report
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import load_run
from factlab.tokens import encode
from model_families import HABITS
from saved_rows import BROAD, GOOD, UNEDITED, make_row, measured, save_run

CHAT = MeasureConfig(n_generated=0, chat=True)
PLAIN = MeasureConfig(n_generated=0)
GROUPS = ("rewrite", "paraphrase", "neighborhood")


@pytest.fixture
def lm(make_model):
    made = make_model("gpt2", dtype=torch.float64)
    made.tokenizer.chat_template = SHORT
    return made


def edits_of(lm, records):
    known, edits = background(lm), []
    for i, record in enumerate(records):
        name, config = (("rome", ROME), ("memit", MEMIT), ("ft", FT))[i % 3]
        edits += method_named(name).each(lm, [record.fact], config, known)
    return edits


def asked_by_hand(lm, prompt: str, target: str) -> list[float]:
    """One text, one forward pass of transformers."""
    head = "<s>[user]\n"
    text = (
        f"{head}{prompt}</s>[assistant]\n{target}"
        if prompt.endswith("?")
        else f"{head}Tell me a fact.</s>[assistant]\n{prompt} {target}"
    )
    tokens = encode(lm.tokenizer, text)
    begins = len(text) - len(target)
    places = [i for i, (_, stop) in enumerate(tokens.char_spans) if stop > begins]
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([tokens.ids])).logits[0].log_softmax(-1)
    return [float(logprobs[i - 1, tokens.ids[i]]) for i in places]


@pytest.mark.parametrize("family", HABITS)
def test_each_record_is_asked_on_its_own_edited_model(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    lm.tokenizer.chat_template = SHORT
    records = [*make_records(2), make_record(2, paraphrase_prompts=("Where is Seattle?",))]
    edits = edits_of(lm, records)
    found = Yardstick(lm, CHAT, {}).measure(records, edits, [False] * 3)
    for record, edit, one in zip(records, edits, found, strict=True):
        scores = iter([each for group in GROUPS for each in getattr(one.chat, group)])
        with edit.applied(lm):
            for ask in asks(record):
                answered = next(scores)
                for kind, target in ask.targets.items():
                    right = asked_by_hand(lm, ask.prompt, target)
                    # Bloom and others have parts in single precision.
                    assert getattr(answered, kind).logprobs == pytest.approx(right, abs=2e-3)
    if family in ("gpt2", "llama"):
        (alone,) = Yardstick(lm, CHAT, {}).measure(records[1:2], edits[1:2], [False])
        for group in GROUPS:
            pairs = zip(getattr(alone.chat, group), getattr(found[1].chat, group), strict=True)
            for one, other in pairs:
                assert one.new.logprobs == pytest.approx(other.new.logprobs, abs=1e-9)
                assert one.true.logprobs == pytest.approx(other.true.logprobs, abs=1e-9)


def test_the_head_of_the_template_is_run_once_for_each_edit(lm, monkeypatch):
    heads: list[list[int]] = []
    run_heads = likelihood._heads

    def told(lm, batch, changes):
        heads.append([batch[0].n_head, len({each.owner for each in batch}), len(batch)])
        return run_heads(lm, batch, changes)

    monkeypatch.setattr(likelihood, "_heads", told)
    records = make_records(3)
    Yardstick(lm, CHAT, {}).measure(records, edits_of(lm, records), [False] * 3)
    n_head = len(encode(lm.tokenizer, lm.chat_forms().begun.before))
    assert sum(n for _, _, n in heads) == 3 * 5, "a neighbour that repeats is asked once"
    assert all(abs(n - n_head) <= 1 and owners == 3 for n, owners, _ in heads)
    monkeypatch.undo()
    lm.memory_gib = 1e-9
    small = Yardstick(lm, CHAT, {}).measure(records, None, [False] * 3)
    lm.memory_gib = None
    large = Yardstick(lm, CHAT, {}).measure(records, None, [False] * 3)
    for one, other in zip(small, large, strict=True):
        assert one.chat.rewrite[0].new.logprobs == pytest.approx(
            other.chat.rewrite[0].new.logprobs, abs=1e-9
        )


def test_what_is_measured_without_the_template_stays_as_it_was(lm):
    records = make_records(3)
    plain = Yardstick(lm, PLAIN, {}).measure(records, None, [False] * 3)
    both = Yardstick(lm, CHAT, {}).measure(records, None, [False] * 3)
    assert [one.chat for one in plain] == [None] * 3
    assert [one.model_copy(update={"chat": None}) for one in both] == plain
    assert all(isinstance(one.chat, InChat) for one in both)
    assert is_finite(both[0])
    broken = both[0].chat.rewrite[0].new.model_copy(update={"logprobs": (float("nan"),)})
    asked = both[0].chat.rewrite[0].model_copy(update={"new": broken})
    chat = both[0].chat.model_copy(update={"rewrite": (asked,)})
    assert not is_finite(both[0].model_copy(update={"chat": chat}))


def test_what_is_kept_of_the_unedited_model_is_found_as_before():
    """The key of the cache is made of these settings."""
    written = MeasureConfig(checkpoints=(3,)).model_dump(mode="json", exclude={"n_generated"})
    assert [*written.items()] == [
        ("text_tokens", 100), ("top_k", 5), ("seed", 0), ("essence", False), ("drift_tokens", 0),
        ("checkpoints", [3]),
    ]  # fmt: skip
    assert CHAT.model_dump(mode="json")["chat"] is True


def test_zsre_too(lm):
    record = make_zsre(1)
    (found,) = Yardstick(lm, CHAT, {}).measure([record], None, [False])
    (neighbour,) = found.chat.neighborhood
    assert neighbour.new is None
    right = asked_by_hand(lm, "Who plays the trumpet?", "Miles Davis")
    assert neighbour.true.logprobs == pytest.approx(right, abs=1e-9)


# -- runs ------------------------------------------------------------------------------------------


def start(lm, out, measure=CHAT, **options):
    options = {"config": ROME, "batch_size": 2, "background": background(lm)} | options
    return evaluate(lm, make_records(4), "rome", out, measure=measure, **options)


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_a_run_that_was_stopped_goes_on(lm, tmp_path, mode):
    method, config = ("memit", MEMIT) if mode == "together" else ("rome", ROME)
    more = {
        "config": config, "mode": mode, "measure": CHAT, "batch_size": 2,
        "background": background(lm),
    }  # fmt: skip
    whole = evaluate(lm, make_records(4), method, tmp_path / "whole", **more)
    stops = iter([False, False, True] if mode != "sequence" else [*[False] * 5, True])
    part = evaluate(
        lm, make_records(4), method, tmp_path / "part",
        should_stop=lambda: next(stops, True), **more,
    )  # fmt: skip
    assert part.n_missing
    again = evaluate(lm, make_records(4), method, tmp_path / "part", resume=True, **more)
    assert reports(again) == reports(whole)
    assert all(row.after.chat and row.before.chat for row in again.rows)
    if mode == "sequence":
        assert all(row.right_after.chat for row in again.rows)


def test_another_template_or_none_is_another_run(lm, tmp_path):
    start(lm, tmp_path / "chat")
    start(lm, tmp_path / "plain", PLAIN)
    request = json.loads((tmp_path / "plain" / "run.json").read_text())["request"]
    assert "chat" not in json.dumps(request), "a run of an earlier version goes on"
    assert start(lm, tmp_path / "plain", PLAIN, resume=True).n_missing == 0
    for folder, measure in (("chat", PLAIN), ("plain", CHAT)):
        with pytest.raises(StorageError, match=r"belongs to another run: .*chat"):
            start(lm, tmp_path / folder, measure, resume=True)
    before = [row.before.chat for row in load_run(tmp_path / "chat").rows]
    lm.tokenizer.chat_template = DATED
    with pytest.raises(StorageError, match=r"belongs to another run: .*chat"):
        start(lm, tmp_path / "chat", resume=True)
    other = start(lm, tmp_path / "other")
    assert all(row.before.chat != chat for row, chat in zip(other.rows, before, strict=True)), (
        "what is kept of the unedited model is of one template"
    )


def test_rows_are_written_as_by_earlier_versions(lm, tmp_path):
    start(lm, tmp_path / "plain", PLAIN)
    (path,) = (tmp_path / "plain").glob("records-*.jsonl")
    assert "chat" not in path.read_text()
    assert all(row.before.chat is None for row in load_run(tmp_path / "plain").rows)


def test_no_template_is_told_before_anything_is_computed(make_model, tmp_path, monkeypatch):
    lm = make_model("gpt2")
    monkeypatch.setattr("factlab.editing.background.second_moments", None)
    with pytest.raises(InvalidRequestError, match="tiny-gpt2 has no chat template"):
        evaluate(lm, make_records(1), "rome", tmp_path / "out", config=ROME, measure=CHAT)
    assert not (tmp_path / "out").exists()


def test_a_record_that_does_not_fit_is_left_out_and_named(lm, tmp_path):
    room = lm.context_length - len(lm.encode("Rome is in"))
    long = make_record(1, paraphrase_prompts=("Rome is in" + " the" * (room - 15),))
    records = [make_record(0), long]
    run = evaluate(
        lm, records, "rome", tmp_path / "out", config=ROME, measure=CHAT, background=background(lm)
    )
    assert (run.n_cases, run.n_unusable) == (1, 1)
    unusable = json.loads((tmp_path / "out" / "run.json").read_text())["findings"]["unusable"]
    assert "'Rome is in the the" in unusable["1"]
    assert "is too long in the chat template" in unusable["1"]


def test_from_the_command_line(run, lm, tmp_path, monkeypatch):
    monkeypatch.setattr("factlab.models.loading.load", lambda *_args, **_kwargs: lm)
    save_records([make_record(i) for i in range(3)], tmp_path / "facts.json")
    code, out, err = run(
        "eval", "--data", tmp_path / "facts.json", "--method", "ft", "--layer", 1, "--chat",
        "--set", "steps=2", "--set", "chat=true", "--no-generation", "--out", tmp_path / "run",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["tables"][0]["rows"]
    assert [(row["label"], row["kind"]) for row in rows] == [
        ("unedited", "unedited"), ("unedited, in chat", "unedited_in_chat"),
        ("ft", "run"), ("ft, in chat", "run_in_chat"),
    ]  # fmt: skip
    assert rows[2]["config"]["chat"] == "fitting"


# -- reports ---------------------------------------------------------------------------------------


def chat_row(case_id, won, in_chat, unedited_in_chat=UNEDITED, **changes):
    row = make_row(case_id, won, **changes)

    def asked(measurement, outcome):
        chat = InChat(**{group: getattr(measured(outcome), group) for group in GROUPS})
        return measurement.model_copy(update={"chat": chat})

    return row.model_copy(
        update={
            "before": asked(row.before, unedited_in_chat),
            "after": asked(row.after, in_chat),
        }
    )


@pytest.fixture
def table(tmp_path):
    """Two runs: one good in both, the other good as plain text and broad in the chat."""
    good = [chat_row(i, GOOD, GOOD) for i in range(6)]
    broad = [chat_row(i, GOOD, BROAD if i else UNEDITED, method="ft") for i in range(6)]
    runs = [
        load_run(save_run(tmp_path / "a", good, chat={"asked": ["<", ">"]})),
        load_run(save_run(tmp_path / "b", broad, method="ft", chat={"asked": ["<", ">"]})),
    ]
    return build_report(runs, exact=True, against="rome")


def test_lines_stand_beside_each_other(table):
    (only,) = table.tables
    assert [row.label for row in only.rows] == [
        "unedited", "unedited, in chat", "rome", "rome, in chat", "ft", "ft, in chat",
    ]  # fmt: skip
    by_label = {row.label: row for row in only.rows}

    def mean(label, name):
        return by_label[label].summary.metrics[name].estimate.mean

    for name in ("rewrite_success", "neighborhood_success", "score", "rewrite_exact"):
        assert mean("rome", name) == mean("rome, in chat", name)
    assert mean("ft", "neighborhood_success") == 1
    assert mean("ft, in chat", "neighborhood_success") == pytest.approx(1 / 6)
    assert mean("ft, in chat", "rewrite_success") == pytest.approx(5 / 6)
    assert by_label["ft, in chat"].summary.metrics["rewrite_success"].estimate.has_interval
    assert by_label["ft, in chat"].summary.metrics["entropy_bits"].n == 0


def test_lines_in_chat_are_compared_with_their_like(table):
    by_label = {row.label: row for row in table.tables[0].rows}
    assert by_label["rome"].p_values == by_label["rome, in chat"].p_values == {}
    assert by_label["ft"].p_values["neighborhood_success"] == 1
    assert by_label["ft, in chat"].p_values["neighborhood_success"] < 0.1
    said = " ".join(notes(table.tables[0]))
    assert "differs from rome, in chat from the same in chat" in said
    assert "in chat: the same prompts in the model's chat template" in said
    assert "GE" not in said, "texts are not written in the chat, which is no fault of a record"


def test_every_format_has_them(table, tmp_path):
    text = str(table)
    assert "ft, in chat" in text
    assert "| ft, in chat | 6 |" in table.to_markdown()
    rows = table.rows()
    kinds = {(row["row"], row["kind"]) for row in rows}
    assert ("ft, in chat", "run_in_chat") in kinds
    assert ("unedited, in chat", "unedited_in_chat") in kinds
    assert "unedited_in_chat" in table.to_csv()
    document = table.to_json()["tables"][0]["rows"][1]
    assert (document["kind"], document["metrics"]["rewrite_success"]["n"]) == (
        "unedited_in_chat",
        6,
    )
    assert "method" not in document
    names = [path.name for path in table.save(tmp_path / "report")]
    assert "report.csv" in names
    assert any(name.endswith(".png") for name in names)


def test_a_run_without_the_template_has_no_such_lines(tmp_path):
    runs = [
        load_run(save_run(tmp_path / "a", [chat_row(i, GOOD, BROAD) for i in range(3)], chat="x")),
        load_run(save_run(tmp_path / "b", [make_row(i, GOOD) for i in range(3)], method="ft")),
    ]
    for ordered in (runs, runs[::-1]):
        labels = [row.label for row in build_report(ordered).tables[0].rows]
        assert sorted(labels) == [
            "ft", "rome", "rome, in chat", "unedited", "unedited, in chat",
        ]  # fmt: skip
    assert not any("chat" in label for label in labels_of(runs[1]))
    scores = runs[0].table()[0]
    assert scores["neighborhood_success"] == 1
    assert scores["neighborhood_success_in_chat"] == 0
    assert scores["rewrite_success_in_chat_before"] == 0
    assert "entropy_bits_in_chat" not in scores
    assert not any("chat" in name for name in runs[1].table()[0])


def labels_of(run):
    return [row.label for row in build_report([run]).tables[0].rows]


def test_an_edit_that_failed_has_no_score_in_chat(tmp_path):
    rows = [chat_row(i, GOOD, GOOD) for i in range(3)]
    rows[1] = rows[1].model_copy(update={"after": None, "failed": "too long"})
    (only,) = build_report([load_run(save_run(tmp_path / "a", rows, chat="x"))]).tables
    by_label = {row.label: row for row in only.rows}
    found = by_label["rome, in chat"].summary.metrics["rewrite_success"]
    assert (found.n, dict(found.unscored)) == (2, {"the edit failed": 1})


def test_texts_are_written_once_as_plain_text(lm):
    settings = MeasureConfig(text_tokens=14, chat=True)
    (found,) = Yardstick(lm, settings, {}).measure([make_record(0)], None, [True])
    (plain,) = Yardstick(lm, MeasureConfig(text_tokens=14), {}).measure(
        [make_record(0)], None, [True]
    )
    assert found.written == plain.written


def test_all_that_can_be_asked_goes_together(lm, tmp_path):
    """Free answers, ripple queries and the chat template in one run, with two kinds of edits."""
    everything = MeasureConfig(
        n_generated=1,
        text_tokens=12,
        answers="bare,qa,chat",
        answer_tokens=5,
        ripple=True,
        chat=True,
    )
    records = with_ripple(make_records(3)).records
    runs = [
        evaluate(lm, records, name, tmp_path / name, config, measure=everything)
        for name, config in (("ft", FT), ("in-context", None))
    ]
    for run in runs:
        for row in run.rows:
            assert row.after is not None
            assert row.after.answers
            assert row.after.ripple is not None
            assert row.after.chat is not None
    # The scores are those of runs that measure one thing each.
    alone = evaluate(
        lm, records, "ft", tmp_path / "answers", FT,
        measure=MeasureConfig(n_generated=0, answers="bare,qa,chat", answer_tokens=5),
    )  # fmt: skip
    assert [row.after.answers for row in alone.rows] == [row.after.answers for row in runs[0].rows]
    report = build_report(runs)
    assert "in-context, in chat" in str(report)
    said = "\n".join(notes(report.tables[0]))
    assert "in chat: Bare" not in said, "answers have a form of their own for the chat"
