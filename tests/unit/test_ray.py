"""`--engine ray` with a stand-in for Ray; integration/test_ray.py has Ray itself."""

import socket
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as first_of
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from factlab.cli import ray_engine, ray_worker, workers
from factlab.cli.ray_engine import Need, Work, done_on_ray
from factlab.cli.ray_worker import last_words, work
from factlab.errors import InvalidRequestError

TINY = ["--model", "tiny:gpt2"]
EVAL = ["eval", "--method", "ft", "--layer", "1", "--limit", "12", *TINY]
SWEEP = ["sweep", "--records", "2", "--layers", "0", "--tokens", "last", "--set", "value.steps=1",
         "--set", "stats.tokens_per_dim=1", "--trace-facts", "0", *TINY]  # fmt: skip


class RayError(Exception):
    """What Ray says if it could not do a task."""


class StandIn:
    """What factlab uses of Ray, with threads in the place of nodes."""

    __spec__ = ModuleSpec("ray", None)
    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self):
        self.resources = [{"CPU": 2.0, "memory": 8 * 2.0**30}]
        self.is_running = True  # whether there is a cluster on this machine
        self.can_start = True  # a cluster of its own
        self.connected: list[dict] = []
        self.asked: dict = {}
        self.n_tasks = 0
        self.fails_with: Exception | None = None
        self._threads = ThreadPoolExecutor(4)

    def init(self, **options):
        if options["address"] == "auto" and not self.is_running:
            raise ConnectionError("Could not find any running Ray instance.")
        if options["address"] == "local" and not self.can_start:
            raise RuntimeError("The current node timed out during startup.")
        self.connected.append(options)

    def shutdown(self):
        self._threads.shutdown()
        self.connected.append({})

    def nodes(self):
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def remote(self, **options):
        self.asked = options
        return lambda function: SimpleNamespace(remote=lambda *args: self._begun(function, args))

    def _begun(self, function, args) -> Future:
        self.n_tasks += 1
        return self._threads.submit(function, *args)

    def wait(self, left, num_returns, timeout):
        done, rest = first_of(left, timeout, FIRST_COMPLETED)
        return list(done), list(rest)

    def get(self, reference):
        if self.fails_with is not None:
            raise self.fails_with
        return reference.result()


@pytest.fixture
def ray(monkeypatch) -> StandIn:
    made = StandIn()
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_engine, "_LOOKS_EVERY_S", 0.01)
    return made


@pytest.fixture
def does(monkeypatch):
    """Python in the place of factlab: `number` is that of the worker, `again` a file to remember by."""

    def set_program(text: str) -> None:
        head = (
            "import os, signal, sys, pathlib; number = os.environ['FACTLAB_WORKER'];"
            "again = pathlib.Path('again-' + number)\n"
        )
        monkeypatch.setattr(ray_worker, "PROGRAM", (sys.executable, "-c", head + text))

    return set_program


def outcomes(place: Path, monkeypatch, n_workers: int = 2, **options):
    monkeypatch.chdir(place)
    told: list[str] = []
    asked = Work(arguments=["eval"], folder=Path("run"), n_workers=n_workers,
                 **{"need": Need(), **options})  # fmt: skip
    return done_on_ray(asked, told.append), told


def test_a_command_on_ray_leaves_and_prints_what_it_does_elsewhere(run, ray, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    code, printed, _ = run(*SWEEP, "--out", one, "--json")
    assert code == 0
    code, printed_on_ray, err = run(*SWEEP, "--out", two, "--json", "--engine", "ray")
    assert code == 0, err
    assert printed_on_ray == printed
    assert (two / "sweep.json").read_bytes() == (one / "sweep.json").read_bytes()
    assert {path.name for path in two.iterdir()} - {path.name for path in one.iterdir()} == {
        ".workers"
    }
    assert "Worker 1 on " in err
    assert "loading the model ..." in err


def test_the_first_worker_prints_and_the_others_are_heard_of(ray, does, tmp_path, monkeypatch):
    does(
        "print('result', sys.argv[1:]); print('at work', file=sys.stderr); sys.exit(number == '2')"
    )
    (first, second), told = outcomes(tmp_path, monkeypatch)
    assert first.output.startswith("result ['eval', '--memory-gib', '2.00', '--shard', 'any'")
    assert (first.code, second.code, second.words) == (0, 1, "at work")
    assert told.count("at work") == 1
    assert {line.partition(" on ")[0] for line in told} == {"Worker 1", "Worker 2", "at work"}
    assert ray.asked["num_cpus"] == 1
    assert {file.name for file in Path("run/.workers").iterdir()} == {"1.log", "2.log"}
    assert ray.connected[-1] == {}


def test_one_that_is_killed_is_started_again(ray, does, tmp_path, monkeypatch):
    does(
        "if again.exists(): print('done'); sys.exit()\n"
        "again.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    found, told = outcomes(tmp_path, monkeypatch)
    assert [outcome.code for outcome in found] == [0, 0]
    assert found[0].output == "done\n"
    assert sum("Worker 1 on" in line for line in told) == 2


def test_one_that_is_killed_each_time_is_given_up(ray, does, tmp_path, monkeypatch):
    does("number == '2' and os.kill(os.getpid(), signal.SIGKILL)")
    (first, second), _ = outcomes(tmp_path, monkeypatch)
    assert (first.is_good, second.is_good) == (True, False)
    assert second.words == "It was killed 4 times, by SIGKILL."


def test_if_the_first_is_lost_another_shows_what_came_of_it(ray, does, tmp_path, monkeypatch):
    does(
        "if number == '1' and not again.exists():\n"
        "    again.touch(); sys.exit('Error: The memory is full.')\n"
        "print('result')"
    )
    (first, second), told = outcomes(tmp_path, monkeypatch)
    assert (first.code, first.output) == (0, "result\n")
    assert second.is_good
    assert "Worker 1 was lost: The memory is full. Another one shows what was done." in told


def test_if_all_fail_the_first_ones_sentence_is_the_commands(run, ray, does, tmp_path):
    does("sys.stderr.write('Error: Layer 99 is\\nnot there.\\n'); sys.exit(2)")
    code, out, err = run(*EVAL, "--out", tmp_path / "run", "--engine", "ray", "--workers", "2")
    assert (code, out) == (2, "")
    assert err.count("Error: Layer 99 is not there.") == 1
    assert "Worker 2 was lost: Layer 99 is not there." in err
    assert ray.n_tasks == 2


def test_a_task_that_ray_cannot_do_is_told_of(ray, does, tmp_path, monkeypatch):
    ray.fails_with = RayError("Traceback\nNo module named 'factlab'")
    does("")
    found, _ = outcomes(tmp_path, monkeypatch, n_workers=1)
    assert found[0].words == "Ray could not do it: No module named 'factlab'"


def test_a_node_that_does_not_see_the_folder_does_nothing(does, tmp_path):
    does("print('result')")
    logs = tmp_path / "run" / ".workers"
    logs.mkdir(parents=True)
    (logs / "mark").touch()
    given = ["eval"], str(tmp_path), "run"
    assert work(1, *given, "mark", {})[::2] == (0, "result\n")
    code, words, _ = work(1, *given, "another", {})
    assert (code, "is not the folder of the run. All nodes must see it" in words) == (2, True)
    code, words, _ = work(1, ["eval"], str(tmp_path / "nowhere"), "run", "mark", {})
    assert (code, "All nodes must see it" in words) == (2, True)


def test_variables_of_factlab_go_along(ray, does, tmp_path, monkeypatch):
    monkeypatch.setenv("FACTLAB_CACHE", "/cache")
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = Work(arguments=[], folder=tmp_path, n_workers=2, need=Need(cpus=3), columns=70)
    assert asked.environment(1)["FACTLAB_CACHE"] == "/cache"
    assert asked.environment(1)["OMP_NUM_THREADS"] == "3"
    assert asked.environment(1)["COLUMNS"] == "70"
    assert {"SECRET", "COLUMNS"}.isdisjoint(asked.environment(2))


@pytest.mark.parametrize(
    ("need", "node", "n_places", "device"),
    [
        (Need(), {"CPU": 4.0}, 4, "cpu"),
        (Need(cpus=3), {"CPU": 8.0, "GPU": 8.0}, 2, "cpu"),
        (Need(gpus=1), {"CPU": 4.0}, 0, "cuda"),
        (Need(gpus=1), {"CPU": 4.0, "GPU": 2.0}, 2, "cuda"),
        (Need(gpus=0.5), {"CPU": 4.0, "GPU": 1.0}, 2, "cuda"),
        (Need(gpus=0.4), {"CPU": 9.0, "GPU": 2.0}, 4, "cuda"),
        (Need(gpus=2), {"CPU": 4.0, "GPU": 3.0}, 1, "auto"),
    ],
)
def test_for_how_many_workers_a_node_has_room(need, node, n_places, device):
    need.check()
    assert (need.places_on(node), need.device) == (n_places, device)


def test_a_cluster_without_room_is_told_of_before_anything_begins(ray, run, tmp_path):
    ray.resources = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}]
    asked = ["--engine", "ray", "--workers", "2", "--gpus", "2", "--cpus", "4"]
    code, _, err = run(*EVAL, "--out", tmp_path / "run", *asked)
    assert code == 2
    assert "No node of the Ray cluster has 2 GPUs and 4 cores for a worker." in err
    assert "They have: 1 GPU and 4 cores; 8 cores." in err
    assert not (tmp_path / "run").exists()
    assert ray.n_tasks == 0


def test_workers_without_a_place_wait(ray, does, tmp_path, monkeypatch):
    does("")
    found, told = outcomes(tmp_path, monkeypatch, n_workers=3)
    assert len(found) == 3
    assert "2 of 3 workers have a place at once; the others wait." in told


def test_that_no_node_is_left_is_told_once(ray, does, tmp_path, monkeypatch):
    does("import time\nwhile not again.exists(): time.sleep(0.01)")
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("Worker"):
            ray.resources = []
        if line.startswith("No node"):
            Path("again-1").touch()

    asked = Work(arguments=["eval"], folder=Path("run"), n_workers=1, need=Need())
    assert done_on_ray(asked, tell)[0].is_good
    assert sum("No node with 1 core is left" in line for line in told) == 1


def test_without_a_cluster_one_is_started_here(ray, does, tmp_path, monkeypatch):
    does("")
    ray.is_running = False
    outcomes(tmp_path, monkeypatch, need=Need(cpus=2))
    started = ray.connected[0]
    assert (started["address"], started["num_cpus"]) == ("local", 4)
    ray.can_start = False
    with pytest.raises(InvalidRequestError, match=r"could not start .*: The current node timed"):
        outcomes(tmp_path, monkeypatch)


def test_the_cluster_of_an_address_must_answer(ray, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(ray, "resources", [])
        with pytest.raises(InvalidRequestError, match="No node"):
            outcomes(tmp_path, monkeypatch)
    assert ray.connected[0]["address"] == address
    with pytest.raises(InvalidRequestError, match=f"at '{address}' cannot be used: .*refused"):
        outcomes(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one\ntwo\n", "two"),
        ("at work\nError: It is\nfull. \n", "It is full."),
        ("", ""),
    ],
)
def test_the_last_words_are_the_error(text, words):
    assert last_words(text) == words


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "rai"], "no engine 'rai'. Did you mean 'ray'"),
        (["--engine", "ray", "--devices", "cpu", "--workers", "2"], "Leave --device and --devices"),
        (["--engine", "ray", "--device", "cpu"], "Leave --device and --devices out"),
        (["--engine", "ray", "--shard", "1/2"], "Leave --shard out"),
        (["--engine", "ray", "--gpus", "1.5"], "--gpus 1.5 must be a part of one"),
        (["--engine", "ray", "--gpus", "inf"], "--gpus inf must be"),
        (["--workers", "2", "--gpus", "1"], "--cpus and --gpus are for --engine ray"),
        (["--cpus", "1"], "--cpus and --gpus are for --engine ray"),
    ],
)
def test_what_does_not_go_with_an_engine_is_refused(run, ray, tmp_path, options, told):
    code, _, err = run(*EVAL, "--out", tmp_path / "run", *options)
    assert code == 2
    assert told in err
    assert not (tmp_path / "run").exists()
    assert ray.connected == []


def test_without_ray_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run(*EVAL, "--out", tmp_path / "run", "--engine", "ray")
    assert code == 2
    assert "pip install 'factlab[ray]'" in err


def test_the_first_worker_is_no_helper(monkeypatch):
    for number, is_started, is_worker in (
        (None, False, False),
        ("1", True, False),
        ("2", True, True),
    ):
        if number is None:
            monkeypatch.delenv(workers.WORKER, raising=False)
        else:
            monkeypatch.setenv(workers.WORKER, number)
        assert (workers.is_started(), workers.is_worker()) == (is_started, is_worker)
