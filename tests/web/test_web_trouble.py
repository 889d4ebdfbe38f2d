"""What goes wrong around a workbench: full disks, folders that may not be read."""

import json
from dataclasses import replace

import pytest
from workbench import EDIT, PROMPT, TRACE, evaluated, workbench

import factlab as fl
from factlab.errors import StorageError
from factlab.web import jobs as module
from factlab.web.folders import Folders
from factlab.web.jobs import Jobs
from factlab.web.tasks import Tasks

ASK = {"kind": "ask", "prompts": [PROMPT], "n_tokens": 2}
CELL = TRACE | {"kind": "cell", "state": "mlp", "position": 2, "layer": 1}


@pytest.fixture
def bench(make_model, tmp_path):
    with workbench(tmp_path / "bench", make_model("gpt2")) as bench:
        yield bench


# -- jobs ---------------------------------------------------------------------------------------


def test_a_full_disk_ends_no_more_than_what_it_must(bench, monkeypatch):
    def full(path, document):
        if document["state"] != "waiting":
            raise StorageError(f"Cannot write '{path}': no space left.")

    monkeypatch.setattr(module, "write_json", full)
    for _ in range(2):  # the second shows that somebody is still at work
        job = bench.ended(bench.begin(ASK))
        job = bench.when(job["id"], lambda job: job["error"])
        assert (job["state"], bool(job["result"])) == ("done", True)
        assert job["error"].startswith("This is gone when the server ends: Cannot write")
    monkeypatch.setattr(Tasks, "do", lambda *_: 1 / 0)
    failed = bench.ended(bench.begin(ASK))
    failed = bench.when(failed["id"], lambda job: "This is gone" in job["error"])
    assert failed["state"] == "failed"
    assert bench.ask("GET", "/api/state")[1]["error"] is None


def test_results_of_old_jobs_are_in_their_files(bench, monkeypatch):
    monkeypatch.setattr(module, "_HELD", 2)
    names = [bench.begin(ASK | {"n_tokens": n}) for n in (1, 2, 3)]
    told = [bench.ended(name) for name in names]
    cell = bench.begin(CELL)
    assert bench.ended(cell)["result"]
    held = {job.record.id: job.record.result for job in bench.worker.jobs}
    assert held[names[0]] is held[names[1]] is None
    assert held[names[2]] is not None
    assert [bench.ended(name) for name in names] == told
    for _ in range(3):  # a job that is told of as ended may still be put away
        bench.ended(bench.begin(ASK))
    assert bench.ask("GET", f"/api/jobs/{cell}")[0] == 404, "what was clicked on is let go"
    again = Jobs.open(bench.worker.jobs.folder)
    assert cell not in {job.record.id for job in again}
    assert [json.loads(again.named(name).record.model_dump_json()) for name in names] == told


def test_jobs_too_old_to_be_listed_are_there(bench, monkeypatch):
    names = [bench.begin(ASK) for _ in range(3)]
    told = [bench.ended(name) for name in names]
    monkeypatch.setattr(module, "_LISTED", 1)
    again = Jobs.open(bench.worker.jobs.folder)
    assert [job.record.id for job in again] == names[2:]
    assert again.named(names[0]).record.result == told[0]["result"]
    for name in names[:2]:  # as a kill leaves them
        file = again.folder / f"{name}.json"
        file.write_text(file.read_text().replace('"done"', '"running"'))
        lost = Jobs.open(again.folder).named(name).record
        assert (lost.state, lost.error) == ("failed", module._LOST)
    for name in ("../jobs/" + names[0], "", "gone"):
        with pytest.raises(StorageError, match="There is no job"):
            again.named(name)


def test_texts_that_are_no_unicode(bench):
    for request in (
        ASK | {"prompts": ["a\ud800b"]},
        {"kind": "stack", "on": ["\ud800", "\ud800"]},
        EDIT | {"method": {"name": "\ud800"}},
    ):
        status, told = bench.ask("POST", "/api/jobs", request)
        assert status in (404, 422)
        assert "\\ud800" in told["error"]
    status, told = bench.ask("POST", "/api/edits", {"job": "x", "name": "\ud800"})
    assert "\\ud800" in told["error"]
    assert bench.done(ASK)["columns"]


# -- what is asked -------------------------------------------------------------------------------

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def test_edits_that_are_texts_stand_inside_the_template(bench):
    bench.lm.tokenizer.chat_template = TEMPLATE
    name = bench.begin(EDIT | {"method": {"name": "in-context"}})
    assert bench.ended(name)["state"] == "done"
    bench.ask("POST", "/api/edits", {"job": name, "name": "told"})
    asked = ASK | {"stacks": [["told"]], "n_tokens": 6, "chat": True}
    (column,) = bench.done(asked)["columns"]
    edit = fl.Edit.load(bench.worker.shelf.folder / "told")
    prompt = bench.lm.chat_prompt(edit.in_front_of(PROMPT))
    assert column["texts"] == [bench.lm.generate(prompt, max_new_tokens=6, return_full_text=False)]


# -- runs ----------------------------------------------------------------------------------------


def test_runs_of_several_models_show_a_record_of_each(make_model, bench, tmp_path):
    evaluated(bench.lm, tmp_path / "runs" / "gpt2")
    evaluated(make_model("llama"), tmp_path / "runs" / "llama")
    both = "run=0/gpt2&run=0/llama"
    found = bench.ask("GET", f"/api/records?{both}&score=rewrite_success")[1]
    assert all(len(one["values"]) == 2 for one in found["records"])
    status, shown = bench.ask("GET", f"/api/records/{found['records'][0]['case_id']}?{both}")
    assert (status, len(shown)) == (200, 2)
    assert len({one["statement"] for one in shown}) == 1


def test_records_of_one_number_are_told_apart(bench, tmp_path):
    evaluated(bench.lm, tmp_path / "runs" / "one")
    others = fl.load_records("builtin", limit=6)[3:]
    records = [replace(one, case_id=number) for number, one in enumerate(others)]
    fl.evaluate(
        bench.lm, records, "ft", tmp_path / "runs" / "other",
        fl.editing.FineTuneConfig(layer=1, steps=1),
        measure=fl.evaluation.MeasureConfig(n_generated=0),
    )  # fmt: skip
    found = bench.ask("GET", "/api/records?run=0/one&run=0/other&score=rewrite_success")[1]
    assert len(found["records"]) == 6
    assert all(len(one["values"]) == 1 for one in found["records"])


def test_a_folder_that_may_not_be_read_hides_no_other(tmp_path, monkeypatch, make_model):
    evaluated(make_model("gpt2"), tmp_path / "run")
    (tmp_path / "locked").mkdir()
    allowed = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    assert [one["name"] for one in Folders([tmp_path]).listed()] == ["0/run"]
