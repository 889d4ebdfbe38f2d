"""The pieces of an evaluation: a plan is data, a worker does it, a collector keeps what comes."""

import json

import pytest
import torch
from tiny_records import METHOD, REFERENCES, TEXTS, background, make_record, make_records

from factlab.editing.methods import method_named
from factlab.errors import EditError, InvalidRequestError
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.running.collecting import Collector
from factlab.evaluation.running.planning import Evaluation, Plan
from factlab.evaluation.running.run import evaluate, run_request
from factlab.evaluation.running.saved_run import load_run
from factlab.evaluation.running.worker import Worker
from factlab.journal import Journal, Shard
from factlab.models.run_model import run_model


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def what(lm, mode="each", records=None) -> Evaluation:
    name, config = METHOD[mode]
    records = records or make_records()
    asked = Evaluation(
        records, method_named(name), config, mode, TEXTS, REFERENCES, (), "records"
    )  # fmt: skip
    return asked.admitted(lm)


def planned(lm, asked, batch_size=2) -> Plan:
    request = run_request(asked, run_model(lm, None))
    return Plan.of(asked, request, TokenisedRecords(lm), batch_size, background(lm))


def evaluated(lm, out, mode="each", **options):
    name, config = METHOD[mode]
    options = {"batch_size": 2} | options
    return evaluate(
        lm, make_records(), name, out, config, mode, TEXTS, REFERENCES,
        background=background(lm), **options,
    )  # fmt: skip


def without_times(row):
    return row.model_dump(exclude={"edit_s", "measure_s"})


def test_a_plan_survives_json(lm):
    records = make_records()
    records[1] = make_record(1, paraphrase_prompts=(" ",))
    plan = planned(lm, what(lm, records=records))
    again = Plan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json"))))
    assert again == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.cases == (0, 2, 3, 4)
    assert [*plan.unusable] == ["1"]
    assert plan.with_texts == {0, 2, 3}
    assert again.blocks(Shard()) == [[0, 2], [3, 4]]
    halves = [again.blocks(Shard(k, 2)) for k in (1, 2)]
    assert sorted(case for half in halves for block in half for case in block) == [0, 2, 3, 4]


def test_a_run_is_what_was_planned(lm, tmp_path):
    asked = what(lm)
    plan = planned(lm, asked)
    evaluated(lm, tmp_path / "run")
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert header == json.loads(json.dumps({"request": plan.request, "findings": plan.findings}))
    journal = Journal.load(tmp_path / "run")
    assert Plan.of_journal(journal, asked, batch_size=2) == plan
    assert Plan.of_journal(journal, asked, batch_size=5).blocks(Shard()) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_rows_of_a_worker_are_those_of_the_run(lm, tmp_path, mode):
    """Of a worker that knows the plan from JSON, does the blocks backwards, and has no cache."""
    run = evaluated(lm, tmp_path / "run", mode)
    asked = what(lm, mode)
    plan = Plan.model_validate_json(planned(lm, asked).model_dump_json())
    (tmp_path / "worker").mkdir()
    worker = Worker(
        Yardstick(lm, plan.measure, REFERENCES), asked, plan, tmp_path / "worker",
        background(lm), tmp_path / "cache",
    )  # fmt: skip
    blocks = plan.blocks(Shard())[::-1]
    with worker:
        for block in blocks:
            worker.measure_unedited(block)
        assert worker.prepare()
        rows = dict(
            pair for block in blocks for pair in zip(block, worker.rows(block), strict=True)
        )
    assert [without_times(rows[case]) for case in sorted(rows)] == [*map(without_times, run.rows)]


def test_rows_need_the_unedited_model(lm, tmp_path):
    asked = what(lm)
    worker = Worker(Yardstick(lm, TEXTS, REFERENCES), asked, planned(lm, asked), tmp_path)
    worker.measure_unedited([0, 1])
    with pytest.raises(InvalidRequestError, match="Case 2 has not been measured"):
        worker.rows([1, 2])


def test_a_collector_keeps_each_row_once(lm, tmp_path):
    """In whatever order blocks come, and whoever has done some before."""
    run = evaluated(lm, tmp_path / "run")
    whole = Journal.load(tmp_path / "run")
    journal = Journal.create(tmp_path / "other", whole.request, whole.findings)
    with journal.writing(Shard()) as writer:
        writer.append(2, whole.records[2])
        collector = Collector(journal, writer, [[0, 1], [2], [3, 4]])
        assert collector.missing == [[0, 1], [3, 4]]
        assert (collector.n_done, collector.n_cases) == (1, 5)
        collector.take([3, 4], run.rows[3:])
        collector.take([2], run.rows[2:3])
        assert collector.n_done == 3
        collector.take([0, 1], run.rows[:2])
    text = (tmp_path / "other" / "records-1-of-1.jsonl").read_text()
    assert [json.loads(line)["case"] for line in text.splitlines()] == [2, 3, 4, 0, 1]
    assert load_run(tmp_path / "other").rows == run.rows


def test_a_collector_gives_up_where_nothing_can_be_written(lm, tmp_path):
    run = evaluated(lm, tmp_path / "run")
    failed = [row.model_copy(update={"after": None, "failed": "No."}) for row in run.rows]
    whole = Journal.load(tmp_path / "run")
    journal = Journal.create(tmp_path / "other", whole.request, whole.findings)
    with journal.writing(Shard()) as writer:
        collector = Collector(journal, writer, [[0, 1, 2], [3, 4]])
        collector.take([0, 1, 2], failed[:3])
        with pytest.raises(EditError, match=r"No fact could be written\. The first: No"):
            collector.take([3, 4], failed[3:])
    assert len(journal.records) == 5


def test_progress_counts_records(lm, tmp_path):
    """Twice: on the unedited model, then on edited ones."""
    told: list[tuple[str, int, int]] = []
    evaluated(lm, tmp_path / "run", progress=lambda *step: told.append(step))
    ours = [step for step in told if step[0] in ("measuring the unedited model", "evaluating rome")]
    assert [done for _, done, _ in ours] == [0, 2, 4, 5] * 2
    assert {total for _, _, total in ours} == {5}
