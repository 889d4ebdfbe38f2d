"""`--engine ray` on a real cluster of several nodes, all on this machine.

Ray is not in the locks: `pip install '.[ray]'`. Without it a stand-in is used, in unit/test_ray.py.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed; it is the extra factlab[ray].")

N_RECORDS = 8
EVAL = ["eval", "--model", "tiny:gpt2", "--method", "ft", "--layer", "1", "--batch-size", "2",
        "--limit", str(N_RECORDS), "--no-generation"]  # fmt: skip
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
MOST_LOOKS = 6_000  # after so many in vain a test has failed, however slow the machine


def seen(look: Callable[[], object], driver: subprocess.Popen) -> None:
    """Look again and again until something is there."""
    for _ in range(MOST_LOOKS):
        if look():
            return
        if driver.poll() is not None:
            break
        time.sleep(0.05)
    driver.kill()
    pytest.fail("\n".join(driver.communicate()))


@pytest.fixture
def cluster(monkeypatch) -> Iterator[object]:
    """One node with room for one worker; more can be added."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


def begun(folder: Path, number: int) -> list[int]:
    """The processes that were started as a worker of a run."""
    log = folder / ".workers" / f"{number}.log"
    text = log.read_text() if log.exists() else ""
    return [int(each) for each in re.findall(rf"^Worker {number} on .*, process (\d+)", text, re.M)]


def is_evaluating(folder: Path, number: int) -> bool:
    log = folder / ".workers" / f"{number}.log"
    return log.exists() and "evaluating" in log.read_text()


def n_written(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("records-*.jsonl"))


def rows(folder: Path) -> list[str]:
    """The lines of a run's one file, without the seconds that its rows took."""
    lines = (folder / "records-1-of-1.jsonl").read_text().splitlines()
    return [
        json.dumps({k: v for k, v in json.loads(line).items() if not k.endswith("_s")})
        for line in lines
    ]


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def started(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "factlab", *EVAL, "--out", str(folder), "--engine", "ray"]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def pids_above(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).parents()]


def test_a_worker_and_a_node_are_lost_and_nothing_else(run, cluster, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    node = cluster.add_node(**NODE)
    driver = started(folder, "--workers", "2")
    held: dict[int, int] = {}
    try:
        # Both are held in the middle, so that neither can be done before the other is lost.
        for number in (1, 2):
            seen(lambda n=number: is_evaluating(folder, n), driver)
            (held[number],) = begun(folder, number)
            os.kill(held[number], signal.SIGSTOP)
        assert n_written(folder) < N_RECORDS
        cluster.add_node(**NODE)  # now, since Ray gives a node half a minute to start
        (killed,) = (n for n in held if raylet(node) not in pids_above(held[n]))
        os.kill(held[killed], signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
    finally:
        for pid in held.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # that of the node sees that it is gone, and ends
    seen(lambda: driver.poll() is not None, driver)
    out, err = driver.communicate()
    assert driver.returncode == 0, err
    assert "Rows: " in out
    assert "was lost" not in err
    assert [len(begun(folder, number)) for number in (1, 2)] == [2, 2]
    assert run(*EVAL, "--out", whole)[0] == 0
    assert rows(folder) == rows(whole)
    assert n_written(folder) == N_RECORDS


def test_what_a_cluster_or_a_worker_cannot_do_is_the_error_of_the_command(cluster, tmp_path):
    driver = started(tmp_path / "run", "--gpus", "2")
    seen(lambda: driver.poll() is not None, driver)
    _, err = driver.communicate()
    assert driver.returncode == 2
    assert "No node of the Ray cluster has 2 GPUs and 1 core for a worker" in err
    assert not (tmp_path / "run").exists()
    driver = started(tmp_path / "run", "--layer", "99")
    seen(lambda: driver.poll() is not None, driver)
    _, err = driver.communicate()
    assert driver.returncode == 2
    assert err.count("Error: Layer 99 is out of range") == 1
