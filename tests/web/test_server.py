"""The server: the same documents as the command line, and nothing for those who may not ask."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import torch
from workbench import EDIT, FACT, PROMPT, SUBJECT, TRACE, evaluated, workbench

import factlab as fl
from factlab.errors import InvalidRequestError, MissingPackageError
from factlab.evaluation.reporting.formats import cells
from factlab.evaluation.running.saved_run import load_run
from factlab.tracing.document import trace_document
from factlab.tracing.growing import growing_trace
from factlab.web.jobs import Jobs
from factlab.web.requests import TraceJob
from factlab.web.serving import Address, serve
from factlab.web.tasks import Tasks


@pytest.fixture
def bench(make_model, tmp_path):
    with workbench(tmp_path / "bench", make_model("gpt2")) as bench:
        yield bench


def state_of(lm):
    return {name: weight.detach().clone() for name, weight in lm.model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# -- traces -------------------------------------------------------------------------------------


def test_a_trace_is_that_of_the_library(bench):
    found = bench.done(TRACE)
    trace = fl.causal_trace(bench.lm, PROMPT, SUBJECT, config=fl.tracing.TraceConfig(samples=2))
    assert found == json.loads(json.dumps(trace_document(trace) | {"stack": []}))


def test_paths_are_severed(bench):
    found = bench.done(TRACE | {"severed": ["mlp"]})
    assert list(found["effects"]) == ["block", "mlp_severed"]


def test_a_trace_grows_token_by_token(make_model):
    lm = make_model("llama")
    fact, config = fl.Fact.from_prompt(PROMPT, SUBJECT), fl.tracing.TraceConfig(samples=2)
    steps = list(growing_trace(lm, fact, config=config))
    start, stop = steps[0].subject_span
    known = [(~step.effects["mlp"].isnan()).any(1).nonzero().flatten().tolist() for step in steps]
    assert known[0] == [stop - 1]
    assert known[stop - start - 1] == list(range(start, stop))
    assert [len(each) for each in known] == list(range(1, len(steps) + 1))
    assert steps[-1] == fl.causal_trace(lm, fact, config=config)


def test_an_estimate_comes_whole(make_model):
    lm, config = make_model("llama"), fl.tracing.TraceConfig(samples=2, method="gradient")
    (whole,) = growing_trace(lm, fl.Fact.from_prompt(PROMPT, SUBJECT), config=config)
    assert whole == fl.causal_trace(lm, PROMPT, SUBJECT, config=config)


@pytest.mark.parametrize("kind", ["block", "mlp", "attn", "mlp_severed"])
def test_what_is_said_with_a_state_is_what_the_trace_measures(make_model, kind):
    lm = make_model("gpt2", dtype=torch.float64)
    config = fl.tracing.TraceConfig(samples=3, kinds=(kind,))
    fact = fl.Fact.from_prompt(PROMPT, SUBJECT)
    trace = fl.causal_trace(lm, fact, config=config)
    vocabulary = lm.embedding.weight.shape[0]
    for position, layer in ((trace.subject_span.last, 0), (len(trace.tokens) - 1, 2)):
        said = fl.tracing.said_with_state(
            lm, fact, kind, position, layer, config=config, k=vocabulary
        )
        restored = trace.corrupted_prob + float(trace.effects[kind][position, layer])
        assert sum(prob for _, prob in said) == pytest.approx(1)
        assert [prob for _, prob in said] == sorted((prob for _, prob in said), reverse=True)
        assert any(
            token == trace.answer and prob == pytest.approx(restored, abs=1e-6)
            for token, prob in said
        )


def test_a_state_that_is_not_there(make_model):
    lm, fact = make_model("gpt2"), fl.Fact.from_prompt(PROMPT, SUBJECT)
    with pytest.raises(InvalidRequestError, match="Token 99 is out of range"):
        fl.tracing.said_with_state(lm, fact, "block", 99, 0)
    with pytest.raises(InvalidRequestError, match="Layer 7 is out of range"):
        fl.tracing.said_with_state(lm, fact, "block", 0, 7)


def test_a_cell_is_asked_for(bench):
    said = bench.done(TRACE | {"kind": "cell", "state": "mlp", "position": 2, "layer": 1})["said"]
    assert len(said) == 5
    assert all(0 < one["prob"] <= 1 for one in said)


# -- edits --------------------------------------------------------------------------------------


def test_an_edit_is_made_saved_applied_and_undone_to_the_bit(bench):
    before = state_of(bench.lm)
    name = bench.begin(EDIT)
    job = bench.ended(name)
    found = job["result"]
    assert [row["kind"] for row in found["asked"]] == ["rewrite", "paraphrase", "neighbour"]
    assert all(row["before"]["text"] and row["after"]["text"] for row in found["asked"])
    rewrite = found["asked"][0]
    assert rewrite["after"]["new_prob"] > rewrite["before"]["new_prob"]
    assert same(before, state_of(bench.lm))
    assert bench.ask("POST", "/api/edits", {"job": name, "name": "needle in Rome"})[0] == 201
    again = bench.ask("POST", "/api/edits", {"job": name, "name": "needle in Rome"})
    assert again[1]["error"] == "There is a saved edit 'needle in Rome'. Choose another name."
    (listed,) = bench.ask("GET", "/api/edits")[1]
    assert (listed["name"], listed["method"], listed["n_facts"]) == ("needle in Rome", "ft", 1)
    edit = fl.Edit.load(bench.worker.shelf.folder / "needle in Rome")
    assert json.loads(json.dumps(edit.to_json())) == found["edit"]

    assert bench.done({"kind": "stack", "on": ["needle in Rome"]}) == {"on": ["needle in Rome"]}
    assert bench.ask("GET", "/api/state")[1]["on"] == ["needle in Rome"]
    assert not same(before, state_of(bench.lm))
    asked = {"kind": "ask", "prompts": [PROMPT], "stacks": [[], ["needle in Rome"]], "n_tokens": 4}
    columns = bench.done(asked)["columns"]
    assert [column["stack"] for column in columns] == [[], ["needle in Rome"]]
    assert columns[0]["texts"][0] == rewrite["before"]["text"]
    assert columns[1]["texts"][0] == rewrite["after"]["text"]
    assert bench.done({"kind": "stack", "on": []}) == {"on": []}
    assert same(before, state_of(bench.lm))


def test_edits_that_are_texts_stand_in_front(bench):
    name = bench.begin(EDIT | {"method": {"name": "in-context"}})
    assert bench.ended(name)["state"] == "done"
    assert bench.ask("POST", "/api/edits", {"job": name, "name": "told"})[0] == 201
    bench.done({"kind": "stack", "on": ["told"]})
    traced = bench.ended(bench.begin(TRACE))
    assert (traced["state"], "Take it off the stack" in traced["error"]) == ("failed", True)
    plain, told = bench.done(
        {"kind": "ask", "prompts": [PROMPT], "stacks": [[], ["told"]], "n_tokens": 6}
    )["columns"]
    edit = fl.Edit.load(bench.worker.shelf.folder / "told")
    expected = bench.lm.generate(edit.in_front_of(PROMPT), max_new_tokens=6, return_full_text=False)
    assert told["texts"] == [expected]
    assert plain["texts"] != told["texts"]


def test_the_model_is_as_it_was_when_the_server_ends(make_model, tmp_path):
    lm = make_model("gpt2")
    before = state_of(lm)
    with workbench(tmp_path / "bench", lm) as bench:
        name = bench.begin(EDIT)
        bench.ended(name)
        bench.ask("POST", "/api/edits", {"job": name, "name": "on"})
        bench.done({"kind": "stack", "on": ["on"]})
        assert not same(before, state_of(lm))
    assert same(before, state_of(lm))


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a" * 81, "nul\0", "trailing."])
def test_names_are_those_of_folders_beside_each_other(bench, name):
    job = bench.begin(EDIT)
    bench.ended(job)
    status, told = bench.ask("POST", "/api/edits", {"job": job, "name": name})
    assert (status, "A name has letters" in told["error"]) == (422, True)
    assert not bench.worker.shelf.names()
    status, told = bench.ask("POST", "/api/edits", {"job": "../edits/x", "name": "good"})
    assert (status, told["error"]) == (404, "This job computed no edit, or it is gone.")


# -- jobs ---------------------------------------------------------------------------------------


def test_jobs_wait_for_each_other_and_can_be_cancelled(bench, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    do = Tasks.do

    def slowly(self, job):
        if job.record.request.kind == "trace":
            reached.set()
            go_on.wait()
        return do(self, job)

    monkeypatch.setattr(Tasks, "do", slowly)
    first, second, third = bench.begin(TRACE), bench.begin(EDIT), bench.begin(TRACE)
    reached.wait()
    states = {job["id"]: job["state"] for job in bench.ask("GET", "/api/jobs")[1]}
    assert states == {first: "running", second: "waiting", third: "waiting"}
    assert bench.ask("DELETE", f"/api/jobs/{third}")[1]["state"] == "cancelled"
    bench.ask("DELETE", f"/api/jobs/{first}")
    go_on.set()
    assert bench.ended(first)["state"] == "cancelled"
    assert bench.ended(first)["result"] is None
    assert bench.ended(second)["state"] == "done"
    assert bench.ended(third)["state"] == "cancelled"


def test_events_tell_a_job_as_it_grows(bench):
    name = bench.begin(TRACE)
    with urllib.request.urlopen(f"{bench.url}/api/jobs/{name}/events", timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    assert told[-1]["state"] == "done"
    assert told[-1]["result"] == bench.ended(name)["result"]


def test_results_are_there_after_the_server_and_what_was_not_finished_says_so(make_model, tmp_path):
    lm = make_model("gpt2")
    with workbench(tmp_path / "bench", lm) as bench:
        name = bench.begin(TRACE)
        result = bench.ended(name)["result"]
    jobs = Jobs.open(tmp_path / "bench" / "jobs")
    lost = jobs.add(TraceJob.model_validate(TRACE))
    (tmp_path / "bench" / "jobs" / "0-damaged.json").write_text("{")
    with workbench(tmp_path / "bench", lm) as bench:
        assert bench.ask("GET", f"/api/jobs/{name}")[1]["result"] == result
        again = bench.ask("GET", f"/api/jobs/{lost.record.id}")[1]
        assert (again["state"], "The server ended" in again["error"]) == ("failed", True)
        assert len(bench.ask("GET", "/api/jobs")[1]) == 2


def test_a_bug_in_one_job_ends_no_other(bench, monkeypatch):
    do = Tasks.do

    def fails(self, job):
        if job.record.request.kind == "trace":
            raise ZeroDivisionError("oops")
        return do(self, job)

    monkeypatch.setattr(Tasks, "do", fails)
    job = bench.ended(bench.begin(TRACE))
    assert (job["state"], job["error"]) == (
        "failed", "Unexpected ZeroDivisionError: oops. This is a bug in factlab.",
    )  # fmt: skip
    assert bench.done({"kind": "ask", "prompts": [PROMPT]})["columns"]


# -- runs and studies ---------------------------------------------------------------------------


def test_runs_are_shown_as_the_report_has_them(bench, tmp_path):
    for steps in (1, 3):
        evaluated(bench.lm, tmp_path / "runs" / f"ft-{steps}", steps)
    trace = fl.causal_trace(bench.lm, PROMPT, SUBJECT, config=fl.tracing.TraceConfig(samples=2))
    trace.save(tmp_path / "runs" / "needle.safetensors")
    (tmp_path / "runs" / "notes.json").write_text("{}")
    listed = bench.ask("GET", "/api/folders")[1]
    assert [(one["name"], one["kind"]) for one in listed] == [
        ("0/ft-1", "evaluation"), ("0/ft-3", "evaluation"), ("0/needle.safetensors", "trace"),
    ]  # fmt: skip
    found = bench.ask("GET", "/api/report?run=0/ft-1&run=0/ft-3")[1]
    made = fl.report([load_run(tmp_path / "runs" / f"ft-{steps}") for steps in (1, 3)])
    assert (found["done"], found["total"]) == (6, 6)
    (table,) = found["tables"]
    assert table["rows"] == [cells(made.tables[0], row) for row in made.tables[0].rows]
    assert len(table["header"]) == len(table["scores"])
    records = bench.ask("GET", "/api/records?run=0/ft-1&run=0/ft-3&score=rewrite_success")[1]
    rows = load_run(tmp_path / "runs" / "ft-3").table()
    assert len(records["labels"]) == 2
    assert [one["values"][records["labels"][1]] for one in records["records"]] == [
        row["rewrite_success"] for row in rows
    ]
    (record,) = bench.ask("GET", f"/api/records/{rows[0]['case_id']}?run=0/ft-1")[1]
    assert rows[0]["subject"] in record["statement"]
    shown = bench.ask("GET", "/api/view?name=0/needle.safetensors")[1]
    assert shown["trace"] == json.loads(json.dumps(trace_document(trace)))


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/report", 422, "run"),
        ("/api/report?run=0/../bench", 404, "There is no evaluation '0/../bench' here."),
        ("/api/view?name=/etc/passwd", 404, "There is no result '/etc/passwd' here."),
        ("/api/records/1?run=0/gone", 404, "There is no evaluation '0/gone' here."),
    ],
)
def test_nothing_but_what_is_listed_is_shown(bench, path, status, sentence):
    found, told = bench.ask("GET", path)
    assert found == status
    assert sentence in told["error"]


def test_a_damaged_run_is_said_to_be(bench, tmp_path):
    evaluated(bench.lm, tmp_path / "runs" / "ft")
    for rows in (tmp_path / "runs" / "ft").glob("records*.jsonl"):
        rows.write_text('{"nonsense": 1}\n')
    status, told = bench.ask("GET", "/api/report?run=0/ft")
    assert status == 404
    assert "record" in told["error"]


# -- bad input ----------------------------------------------------------------------------------

REFUSED = {
    "a subject that is not there": (TRACE | {"subject": "Nobody"}, "Nobody"),
    "no prompt": (TRACE | {"prompt": ""}, "empty"),
    "no such job": ({"kind": "dance"}, "kind"),
    "an unknown setting": (TRACE | {"colour": "red"}, "colour"),
    "severed estimate": (
        TRACE | {"severed": ["mlp"], "config": {"method": "gradient"}}, "cannot sever",
    ),
    "no new object": (EDIT | {"fact": FACT | {"target_new": ""}}, "new object is empty"),
    "no such method": (EDIT | {"method": {"name": "roem"}}, "Did you mean 'rome'"),
    "a wrong setting": (
        EDIT | {"method": {"name": "rome", "settings": {"speed": 1}}}, "speed",
    ),
    "files of the server": (
        EDIT | {"method": {"name": "mend", "editor": "/etc"}}, "from the command line",
    ),
    "an empty question": ({"kind": "ask", "prompts": [" "]}, "A prompt is empty"),
    "twice the same edit": ({"kind": "stack", "on": ["a", "a"]}, "named twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused_at_once_in_a_sentence(bench, case):
    request, sentence = REFUSED[case]
    status, told = bench.ask("POST", "/api/jobs", request)
    assert status == 422
    assert sentence in told["error"]
    assert "\n" not in told["error"]
    assert not bench.ask("GET", "/api/jobs")[1]


FAILING = {
    "too long": (TRACE | {"prompt": f"{SUBJECT} " + "is " * 2000}, "token"),
    "no such layer": (EDIT | {"method": {"name": "ft", "layer": 99}}, "99"),
    "no such edit": ({"kind": "stack", "on": ["nothing"]}, "There is no saved edit 'nothing'"),
    "no chat template": ({"kind": "ask", "prompts": ["Hello"], "chat": True}, "chat template"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_only_the_model_can_tell_fails_in_a_sentence(bench, case):
    request, sentence = FAILING[case]
    job = bench.ended(bench.begin(request))
    assert job["state"] == "failed"
    assert sentence in job["error"]
    assert "bug" not in job["error"]


def test_a_model_that_cannot_be_loaded(tmp_path, make_model):
    def load():
        raise InvalidRequestError("There is no such model.")

    with workbench(tmp_path, make_model("gpt2")) as bench:
        bench.worker.stop()
        bench.worker._is_over.clear()
        bench.worker.load, bench.worker.model = load, None
        bench.worker.start()
        while bench.worker.error is None:
            pass
        assert bench.ask("GET", "/api/state")[1]["error"] == "There is no such model."
        assert bench.ask("POST", "/api/jobs", TRACE) == (422, {"error": "There is no such model."})


# -- who may ask --------------------------------------------------------------------------------


def test_other_names_and_other_pages_are_refused(bench):
    status, told = bench.ask("GET", "/api/state", Host="evil.example")
    assert (status, told["error"]) == (403, "This server does not go by the name 'evil.example'.")
    status, told = bench.ask("POST", "/api/jobs", TRACE, Origin="http://evil.example")
    assert (status, told["error"]) == (403, "Pages of other sites may not ask this server.")
    assert bench.ask("GET", "/api/state", Origin=bench.url)[0] == 200
    assert bench.ask("GET", "/api/state", Origin="null")[0] == 403


def test_beyond_this_machine_a_token_is_needed(make_model, tmp_path):
    with workbench(tmp_path, make_model("gpt2"), token="secret") as bench:
        assert bench.ask("GET", "/api/state")[0] == 401
        assert bench.ask("GET", "/api/state", Authorization="Bearer wrong")[0] == 401
        assert bench.ask("GET", "/api/state", Authorization="Bearer secret")[0] == 200
        with urllib.request.urlopen(f"{bench.url}/static/style.css") as page:
            assert page.status == 200


def test_the_page_may_load_nothing_from_elsewhere(bench):
    with urllib.request.urlopen(f"{bench.url}/") as page:
        rules, html = page.headers["content-security-policy"], page.read().decode()
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert "//" not in html.replace("<!doctype html>", "")


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"]
)
def test_no_file_but_those_of_the_page_is_served(bench, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{bench.url}{path}")
    with refused.value as error:
        assert error.code == 404


# -- starting -----------------------------------------------------------------------------------


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequestError, match=f"port {port}: .*Choose another with --port"):
            serve(lambda: None, tmp_path, Address(port=port))


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'factlab\[web\]'"):
        serve(lambda: None, tmp_path, Address(port=0))


def test_the_command_serves_until_it_is_stopped(tmp_path):
    folder = tmp_path / "bench"
    with subprocess.Popen(
        [
            sys.executable, "-m", "factlab", "serve", "--model", "tiny:gpt2", "--port", "0",
            "--no-browser", "--json", "--folder", str(folder),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as command:  # fmt: skip
        url = json.loads(command.stdout.readline())["url"]
        with urllib.request.urlopen(url) as page:
            assert b"factlab" in page.read()
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=120) in {0, 130}
        assert "Traceback" not in command.stderr.read()


def test_what_the_page_offers(bench):
    examples = bench.ask("GET", "/api/examples")[1]
    assert examples[0]["prompt"] == "The Eiffel Tower is located in the city of"
    assert len({one["prompt"] for one in examples}) == len(examples) > 10
    assert all(one["target_new"] != one["target_true"] for one in examples)
    methods = bench.ask("GET", "/api/methods")[1]
    assert {"rome", "memit", "ft+l", "in-context"} <= {one["name"] for one in methods}
    assert all(one["about"] for one in methods)
