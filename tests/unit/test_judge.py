"""A judge behind an address: what it is sent, what is made of its replies, and of its failures."""

import json
import threading

import pytest
from local_web import serving_posts

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation.judging.client import Judge, verdict_of
from factlab.evaluation.judging.run import MOST_FAILURES, judge
from factlab.evaluation.measuring.rows import GivenAnswer, Row
from factlab.evaluation.measuring.verdicts import Verdicts
from factlab.evaluation.reporting.formats import to_json
from factlab.evaluation.running.merging import merge_runs
from saved_rows import make_row, measured, save_run

N = 8  # records; each has an answer of its own before and after, and a neighbour's in common


def answered(row: Row) -> Row:
    def answers(text: str):
        asked = {"prompt": f"Where is {row.subject}?", "right": ("Rome",), "old": "Paris"}
        beside = {"prompt": "Where is the Louvre?", "right": ("Paris",), "text": "Paris"}
        return (
            GivenAnswer(group="question", form="qa", text=text, **asked),
            GivenAnswer(group="question", form="chat", text=text, **asked),
            GivenAnswer(group="neighborhood", form="qa", **beside),
        )

    def with_answers(text: str):
        return measured((True, True, True)).model_copy(update={"answers": answers(text)})

    return row.model_copy(update={"before": with_answers("Paris"), "after": with_answers("Rome!")})


@pytest.fixture
def folder(tmp_path):
    return save_run(tmp_path / "run", [answered(make_row(i, (True, True, True))) for i in range(N)])


def said(text: str, status: int = 200):
    return status, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def shown(body: bytes) -> dict:
    return json.loads(json.loads(body)["messages"][1]["content"])


class Server:
    """A judge that takes an answer for right if it holds a right one; keeps what it was sent."""

    def __init__(self, faults=None) -> None:
        self.sent, self.headers, self.paths = [], [], []
        self._faults, self._lock = faults or {}, threading.Lock()

    def __call__(self, path, headers, body):
        with self._lock:
            number = len(self.sent)
            self.sent.append(json.loads(body))
            self.headers.append(headers)
            self.paths.append(path)
        if number in self._faults:
            return self._faults[number]
        asked = shown(body)
        right = any(one in asked["the model's answer"] for one in asked["right answers"])
        return said("A: correct" if right else "B")


def test_verdicts_lie_beside_the_run_and_are_asked_for_once(folder, monkeypatch):
    monkeypatch.delenv("FACTLAB_JUDGE_KEY", raising=False)
    before, server = (folder / "records-1-of-1.jsonl").read_bytes(), Server()
    with serving_posts(server) as url:
        run = judge(folder, f"{url}/v1", "stub")
        assert len(server.sent) == 2 * N + 1, "before and after; both forms and the neighbour once"
        again = judge(folder, f"{url}/v1/", "stub")
    assert len(server.sent) == 2 * N + 1
    assert (folder / "records-1-of-1.jsonl").read_bytes() == before
    assert again.rows == run.rows == fl.evaluation.load_run(folder).rows
    assert run.judge == "stub"
    assert {answer.judged for row in run.rows for answer in row.after.answers} == {True}
    assert [answer.judged for answer in run.rows[0].before.answers] == [False, False, True]
    # Several are asked at once, so that any of the first may come in first.
    request = next(one for one in server.sent if "S0?" in one["messages"][1]["content"])
    assert set(server.paths) == {"/v1/chat/completions"}
    assert (request["model"], request["temperature"]) == ("stub", 0)
    told = json.loads(request["messages"][1]["content"])
    assert told.pop("the model's answer") in {"Paris", "Rome!"}
    assert told == {"question or beginning": "Where is S0?", "right answers": ["Rome"]}
    assert request.keys() == {"model", "messages", "temperature", "max_tokens"}
    assert all("Authorization" not in headers for headers in server.headers)


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(folder, monkeypatch):
    monkeypatch.setenv("FACTLAB_JUDGE_KEY", "s3cret")
    server = Server()
    with serving_posts(server) as url:
        judge(folder, url, "stub", at_once=1)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cret"}
    assert not any(b"s3cret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_reports_give_the_share_and_its_agreement_with_exact_match(folder):
    with serving_posts(Server({0: said("Well, who knows?")})) as url:
        run = judge(folder, url, "stub", at_once=1)
    report = fl.report([run])
    (table,) = report.tables
    assert "qa_judged" in table.columns
    unedited, after = table.rows
    assert after.summary.metrics["qa_judged"].estimate.mean == 1
    assert unedited.summary.metrics["qa_judged"].estimate.mean == 0
    assert (unedited.summary.metrics["qa_judged"].n, after.summary.metrics["qa_judged"].n) == (
        N - 1,
        N,
    )
    text = " ".join(str(report).split())
    assert (
        "rome: the judge stub on qa takes 100.0% of 16 answers for right, and agrees with exact "
        "match on 100.0% (κ undefined); chat takes 100.0% of 8 answers" in text
    )
    assert "1 unscored (its reply is neither A nor B: 1)" in text
    first, second = to_json(report)["tables"][0]["rows"]
    assert second["judge"]["forms"]["qa"] == {
        "n": 16, "right": 1.0, "equal_to_exact_match": 1.0, "kappa": None, "unscored": {},
    }  # fmt: skip
    # before: 7 answers "Paris" wrong by both, 8 neighbours right by both
    assert first["judge"]["forms"]["qa"]["kappa"] == pytest.approx(1.0)
    assert first["judge"]["forms"]["qa"]["unscored"] == {"its reply is neither A nor B": 1}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (said("maybe"), "its reply is neither A nor B"),
        (said(""), "its reply is neither A nor B"),
        ((200, {}, b"<html>"), "its reply is not JSON"),
        ((200, {}, b"[" * 100_000), "its reply is not JSON"),
        ((200, {}, b"[]"), "its reply holds no message"),
        ((200, {}, b'{"choices": []}'), "its reply holds no message"),
        ((200, {}, b'{"choices": [{"message": {"content": null}}]}'), "its reply holds no message"),
        ((200, {}, b" " * (1 << 21)), "its reply is too long"),
        ((200, {"Content-Length": "999"}, b"{}"), "its reply was cut short"),
        ((500, {}, b"oh"), "status 500"),
        ((400, {}, b"too long a text"), "status 400"),
    ],
)  # fmt: skip
def test_a_failure_is_no_verdict(folder, reply, reason):
    """The others have theirs, and it is asked for again."""
    server = Server({2: reply})
    with serving_posts(server) as url:
        run = judge(folder, url, "stub", at_once=1, timeout_s=1)
        answers = [a for row in run.rows for m in (row.before, row.after) for a in m.answers]
        unjudged = [answer for answer in answers if answer.judged is None]
        assert {answer.unjudged for answer in unjudged} == {reason}
        assert len({answer.prompt for answer in unjudged}) == 1
        n_before = len(server.sent)
        run = judge(folder, url, "stub", at_once=1, timeout_s=1)
    assert len(server.sent) == n_before + 1
    assert all(answer.judged is not None for row in run.rows for answer in row.after.answers)


def test_one_that_takes_too_long(folder):
    release = threading.Event()

    def slow(path, headers, body):
        if shown(body)["question or beginning"] == "Where is S1?":
            release.wait(20)
        return said("A")

    with serving_posts(slow) as url:
        run = judge(folder, url, "stub", timeout_s=0.3)
        release.set()
    reasons = {a.unjudged for row in run.rows for m in (row.before, row.after) for a in m.answers}
    assert reasons == {"", "no reply within 0.3 s"}
    assert [a.judged for a in run.rows[1].after.answers] == [None, None, True]
    assert [a.judged for a in run.rows[2].after.answers] == [True, True, True]


@pytest.mark.parametrize("reply", [said("hm"), (500, {}, b""), (200, {}, b"{")])
def test_failures_in_a_row_end_it(folder, reply):
    server = Server(dict.fromkeys(range(3, 99), reply))
    with serving_posts(server) as url, pytest.raises(StorageError) as problem:
        judge(folder, url, "stub", at_once=1)
    assert f"gave no verdict on {MOST_FAILURES} answers in a row; the last: " in str(problem.value)
    assert len(server.sent) == 3 + MOST_FAILURES
    kept = Verdicts.load(folder).by_key
    assert sum(one.right is not None for one in kept.values()) == 3
    with serving_posts(Server()) as url:
        run = judge(folder, url, "stub")
    assert all(a.judged is not None for row in run.rows for a in row.after.answers)


@pytest.mark.parametrize(
    ("reply", "check"),
    [
        ((401, {}, b"no such key"), "status 401: no such key. Check the key"),
        ((404, {}, b""), "status 404. Check the address and the model"),
        ((302, {"Location": "/elsewhere"}, b""), "status 302. Check the address"),
    ],
)
def test_what_every_answer_would_meet_ends_it_at_once(folder, reply, check):
    server = Server(dict.fromkeys(range(99), reply))
    with serving_posts(server) as url, pytest.raises(StorageError) as problem:
        judge(folder, url, "stub", at_once=1)
    assert check in str(problem.value)
    assert "FACTLAB_JUDGE_KEY" in str(problem.value)
    assert len(server.sent) == 1


def test_one_that_is_busy_is_asked_again():
    waited: list[float] = []
    server = Server({0: (429, {"Retry-After": "7"}, b""), 1: (503, {}, b"")})
    answer = GivenAnswer(group="question", form="qa", prompt="?", text="Rome", right=("Rome",))
    with serving_posts(server) as url:
        assert Judge(url, "stub", None, 9.0, waited.append).verdict(answer).right is True
        assert waited == [7.0, 4.0]
        server = Server({n: (429, {"Retry-After": "999"}, b"") for n in range(9)})
    with serving_posts(server) as url:
        verdict = Judge(url, "stub", None, 9.0, waited.append).verdict(answer)
    assert (verdict.right, verdict.reason) == (None, "status 429")
    assert waited[2:] == [30.0, 30.0]


def test_nobody_there(folder):
    with serving_posts(Server()) as url:
        pass
    with pytest.raises(
        StorageError, match=r"in a row; the last: it cannot be reached \(Connection"
    ):
        judge(folder, url, "stub")


def test_one_that_was_stopped_goes_on(folder):
    calls = iter([False, True])
    server = Server()
    with serving_posts(server) as url:
        run = judge(folder, url, "stub", at_once=3, should_stop=lambda: next(calls))
        assert len(server.sent) == 6
        with (folder / "judge" / "records-1-of-1.jsonl").open("ab") as file:
            file.write(b'{"case": 6, "key": "to')  # a kill in the middle of a line
        assert fl.evaluation.load_run(folder).rows == run.rows
        told: list[tuple[int, int]] = []
        run = judge(folder, url, "stub", progress=lambda _, done, total: told.append((done, total)))
    assert len(server.sent) == 2 * N + 1
    assert told[-1] == (2 * N + 1, 2 * N + 1)
    assert all(a.judged is not None for row in run.rows for a in row.after.answers)


def test_neighbours_may_be_left_out(folder):
    server = Server()
    with serving_posts(server) as url:
        run = judge(folder, url, "stub", neighborhood=False)
    assert len(server.sent) == 2 * N
    assert run.rows[0].after.answers[2].judged is None


def test_verdicts_of_two_judges_do_not_mix(folder):
    with serving_posts(Server()) as url:
        judge(folder, url, "stub")
        with pytest.raises(StorageError, match=r"holds verdicts of 'stub'.* to ask 'other'"):
            judge(folder, url, "other")


def test_what_cannot_be_judged(folder, tmp_path):
    bare = save_run(tmp_path / "bare", [make_row(0, (True, True, True))])
    with pytest.raises(InvalidRequestError, match="holds no answers to judge"):
        judge(bare, "http://localhost:1", "stub")
    assert not (bare / "judge").exists()
    for url in ("localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1"):
        with pytest.raises(InvalidRequestError, match="is no address of a judge"):
            judge(folder, url, "stub")
    with pytest.raises(InvalidRequestError, match="has no name"):
        judge(folder, "http://localhost:1", " ")
    with pytest.raises(InvalidRequestError, match=r"timeout_s=0\.0"):
        judge(folder, "http://localhost:1", "stub", timeout_s=0)
    with pytest.raises(InvalidRequestError, match="at_once=0"):
        judge(folder, "http://localhost:1", "stub", at_once=0)
    with pytest.raises(InvalidRequestError, match="no key has"):
        judge(folder, "http://localhost:1", "stub", key="a\nb")


def test_damaged_verdicts(folder):
    with serving_posts(Server()) as url:
        judge(folder, url, "stub")
    path = folder / "judge" / "records-1-of-1.jsonl"
    path.write_text(path.read_text().replace('"right": true', '"right": 7', 1))
    with pytest.raises(StorageError, match=r"Verdict \d+ of .* is damaged"):
        fl.evaluation.load_run(folder)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("A", True), ("B", False), (" (A) ", True), ("**B**", False), ("A: correct", True),
        ("B: incorrect.", False), ("A\n\nIt names Rome.", True), ("B. It says Paris.", False),
        ("correct", True), ("incorrect", False), ("<think>A or B?</think>\nB", False),
        ("A: incorrect", None), ("B: correct", None), ("A question of taste", None), ("C", None),
        ("AB", None), ("", None), ("The answer is right", None), ("a", None), ("Both", None),
    ],
)  # fmt: skip
def test_replies(reply, right):
    assert verdict_of(reply) is right


def test_the_command(run, folder, monkeypatch):
    with serving_posts(Server()) as url:
        code, text, problem = run("judge", folder, "--url", url, "--model", "stub")
    assert code == 0, problem
    assert "QA judged" in text
    assert "the judge stub on" in text
    code, _, problem = run("judge", folder, "--url", "nowhere", "--model", "stub")
    assert code == 2
    assert problem.count("\n") == 1


def shards(tmp_path, n: int):
    """Two runs with every other of some records each."""
    rows = [answered(make_row(i, (True, True, True))) for i in range(n)]
    return [
        save_run(tmp_path / f"part-{k}", rows[k::2], n_cases=n, cases=range(k, n, 2))
        for k in range(2)
    ]


def test_shards_are_put_together_with_what_a_judge_said(tmp_path):
    parts = shards(tmp_path, N)
    with serving_posts(Server()) as url:
        for part in parts:
            judge(part, f"{url}/v1", "stub")
    whole = merge_runs(parts, tmp_path / "whole")
    assert whole.judge == "stub"
    by_case = {row.case_id: row for part in parts for row in fl.evaluation.load_run(part).rows}
    assert len(by_case) == N
    assert {row.case_id: row for row in whole.rows} == by_case
    assert len(Verdicts.load(tmp_path / "whole").by_key) == 2 * N + 1


def test_a_verdict_is_kept_where_another_shard_has_none(tmp_path):
    parts = shards(tmp_path, 2)
    with serving_posts(Server()) as url, serving_posts(lambda *_: said("perhaps")) as silent:
        judge(parts[0], f"{url}/v1", "stub")
        judge(parts[1], f"{silent}/v1", "stub")
    told, none = (Verdicts.load(part).by_key for part in parts)
    assert {one.right for one in none.values()} == {None}
    (beside,) = told.keys() & none.keys()
    merge_runs(parts, tmp_path / "whole")
    assert Verdicts.load(tmp_path / "whole").by_key[beside].right


def test_shards_of_two_judges_are_not_put_together(tmp_path):
    parts = shards(tmp_path, 2)
    with serving_posts(Server()) as url:
        for part, name in zip(parts, ("one", "another"), strict=True):
            judge(part, f"{url}/v1", name)
    with pytest.raises(StorageError, match="verdicts of different judges"):
        merge_runs(parts, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
