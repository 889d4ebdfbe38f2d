"""`factlab slurm`: the script is run with a Slurm that only writes down what it is asked."""

import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = ["eval", "--method", "rome", "--out", "a run"]


NOTES = """
import pathlib, sys
with open("asked", "a") as asked:
    print(pathlib.Path(sys.argv[0]).name, *sys.argv[1:], sep="\\n", file=asked)
"""
FINISHES_WHEN_INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
open("began", "w").close()
while True:
    signal.pause()
"""


@pytest.fixture
def cluster(tmp_path):
    """Programs of the names that the script calls; they note their arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!{sys.executable}\n{NOTES}")
    (programs / "factlab").write_text(f"#!{sys.executable}\n{NOTES}{FINISHES_WHEN_INTERRUPTED}")
    for program in programs.iterdir():
        program.chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "3", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "2",
    }  # fmt: skip


def test_a_task_that_comes_near_its_limit_queues_up_again(run, cluster, tmp_path):
    code, script, err = run("slurm", "--tasks", "5", "--setup", "true", "--", *COMMAND)
    assert code == 0, err
    assert "#SBATCH --array=1-5\n" in script
    (tmp_path / "job.sh").write_text(script)
    job = subprocess.Popen(["/bin/bash", "job.sh"], cwd=tmp_path, env=cluster)
    while not (tmp_path / "began").exists():
        time.sleep(0.01)  # looks again soon; nothing is measured
    job.send_signal(signal.SIGUSR1)
    assert job.wait() == 130
    assert (tmp_path / "asked").read_text().splitlines() == [
        "factlab", *COMMAND, "--shard", "any", "scontrol", "requeue", "70_2",
    ]  # fmt: skip


def test_a_task_that_is_done_ends(run, cluster, tmp_path):
    (tmp_path / "programs" / "factlab").write_text("#!/bin/bash\nexit 0\n")
    _, script, _ = run("slurm", "--setup", "true", "--gpus", "2", "--", *COMMAND)
    assert "#SBATCH --gpus-per-task=2\n" in script
    (tmp_path / "job.sh").write_text(script)
    done = subprocess.run(["/bin/bash", "job.sh"], cwd=tmp_path, env=cluster, check=False)
    assert done.returncode == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "ask", "hello"], "'ask' is not shared out"),
        (["--", "eval", "--limit", "3"], "needs --out"),
        (["--", *COMMAND, "--shard", "1/2"], "Leave --shard out"),
        (["--", *COMMAND, "--workers=2"], "Leave --workers=2 out"),
        (["--", *COMMAND, "--engine", "ray"], "Leave --engine out"),
        (["--time", "soon", "--", *COMMAND], "no limit of Slurm's"),
    ],
)
def test_what_makes_no_job_is_refused(run, words, told):
    code, out, err = run("slurm", *words)
    assert (code, out) == (2, "")
    assert told in err
