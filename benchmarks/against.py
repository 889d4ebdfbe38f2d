"""Is this code slower than another version of it? The same calls on both, turn by turn.

    git archive REVISION | tar -x -C /tmp/other
    python benchmarks/against.py /tmp/other            # every case
    python benchmarks/against.py /tmp/other rome trace # some

One process per version holds the bundled model and does one case when it is told to, so that the
two take turns of a second or so on the same machine and share whatever else it is busy with. The
first turn of each is not counted. What is compared is the median over turns of the ratio new / old,
with the smallest time of each beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent.parent
PROMPTS = (
    "The capital of France is", "The Space Needle is in downtown", "Michael Jordan plays",
    "The iPhone was made by", "The Nile flows through", "The language of Brazil is",
    "The founder of Microsoft is", "The Great Wall is in",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("cases", nargs="*", help="some of the cases; all by default")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
        return
    old, new = Worker(args.other), Worker(HERE)
    chosen = args.cases or old.ask("cases")
    print("| case | old, s | new, s | new / old |\n|---|---:|---:|---:|")
    for case in chosen:
        for worker in (old, new):
            worker.ask(case)
        pairs = [(old.ask(case), new.ask(case)) for _ in range(args.turns)]
        ratio = statistics.median(b / a for a, b in pairs)
        fastest = [min(seconds) for seconds in zip(*pairs, strict=True)]
        print(f"| {case} | {fastest[0]:.3f} | {fastest[1]:.3f} | {ratio:.2f} |", flush=True)


class Worker:
    """A process that runs cases with the code in a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(folder)],
            env={"PYTHONPATH": str(folder / "src"), "PYTHONWARNINGS": "ignore", **_environment()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, case: str):
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("answer "):
            if not line:
                raise SystemExit(f"The worker ended in case {case}.")
        return json.loads(line.removeprefix("answer "))


def _environment() -> dict[str, str]:
    passed_on = {
        name: os.environ[name] for name in ("HOME", "PATH", "OMP_NUM_THREADS") if name in os.environ
    }
    return {**passed_on, "FACTLAB_VALUES_MIB": "0"}  # values are optimised each time


def work() -> None:
    """Do what standard input says, and tell how many seconds it took."""
    made: dict[str, Callable[[], object]] = {}
    cases = Cases()
    for line in sys.stdin:
        name = line.strip()
        if name == "cases":
            answer = [case for case in vars(Cases) if not case.startswith("_")]
        else:
            if name not in made:
                made[name] = getattr(cases, name)()
            began = time.perf_counter()
            made[name]()
            answer = time.perf_counter() - began
        print("answer " + json.dumps(answer), flush=True)


class Cases:
    """Each method prepares a case and gives what is to be timed."""

    def __init__(self) -> None:
        import factlab as fl  # noqa: PLC0415 - of the version that this process is for

        self._fl, self._lm = fl, fl.load()
        self._records = self._named("load_records")("builtin", limit=12)
        self._facts = [record.fact for record in self._records]
        self._background = self._named("Background")()

    def _named(self, name: str):
        """A public name, wherever this version has it."""
        fl = self._fl
        names = ("editing", "evaluation", "neurons", "stats", "data", "models", "tracing")
        spaces = [fl, *(getattr(fl, name, None) for name in names)]
        return next(getattr(space, name) for space in spaces if hasattr(space, name))

    def _edit(self, method: str, facts) -> Callable[[], object]:
        run = self._named(method)
        return lambda: run(self._lm, facts, background=self._background)

    def trace(self) -> Callable[[], object]:
        return lambda: self._fl.causal_trace(self._lm, self._facts[0])

    def rome(self) -> Callable[[], object]:
        return self._edit("rome", self._facts[0])

    def rome_each(self) -> Callable[[], object]:
        return self._edit("rome_each", self._facts)

    def memit(self) -> Callable[[], object]:
        return self._edit("memit", self._facts)

    def memit_each(self) -> Callable[[], object]:
        return self._edit("memit_each", self._facts[:4])

    def emmet(self) -> Callable[[], object]:
        return self._edit("emmet", self._facts[:6])

    def alphaedit(self) -> Callable[[], object]:
        return self._edit("alphaedit", self._facts[:6])

    def fine_tune(self) -> Callable[[], object]:
        run = self._named("fine_tune")
        return lambda: run(self._lm, self._facts[:4], "ft+l")

    def fine_tune_each(self) -> Callable[[], object]:
        run = self._named("fine_tune_each")
        return lambda: run(self._lm, self._facts[:4], "ft+l")

    def kn(self) -> Callable[[], object]:
        run = self._named("kn")
        return lambda: run(self._lm, self._facts[:1])

    def neurons(self) -> Callable[[], object]:
        run = self._named("attribute_neurons")
        return lambda: run(self._lm, self._facts[0])

    def sequence(self) -> Callable[[], object]:
        run = self._named("edit_sequence")
        return lambda: run(self._lm, self._facts[:6], "rome", background=self._background)

    def evaluate(self) -> Callable[[], object]:
        measure = self._named("MeasureConfig")(n_generated=0)
        return lambda: self._evaluate(self._records, measure)

    def evaluate_with_texts(self) -> Callable[[], object]:
        measure = self._named("MeasureConfig")(n_generated=2)
        return lambda: self._evaluate(self._records[:2], measure)

    def _evaluate(self, records, measure) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._fl.evaluate(
                self._lm, records, "rome", f"{folder}/run", measure=measure,
                cache=f"{folder}/cache", background=self._background,
            )  # fmt: skip

    def train(self) -> Callable[[], object]:
        config = self._named("TrainConfig")(max_steps=3, validate_every=3)
        network = self._named("MendConfig")()
        records = self._named("load_records")("builtin", limit=60)
        examples = self._named("examples_of_records")(self._lm, records)
        train = self._named("train_editor")

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                train(self._lm, examples, f"{folder}/editor", network, config)

        return run

    def score(self) -> Callable[[], object]:
        prompts = [fact.prompt for fact in self._facts]
        targets = [str(fact.target_new) for fact in self._facts]
        return lambda: self._lm.score(prompts, targets)

    def generate(self) -> Callable[[], object]:
        return lambda: self._lm.generate_batch([*PROMPTS], max_new_tokens=24)

    def apply_and_undo(self) -> Callable[[], object]:
        edit = self._named("rome")(self._lm, self._facts[0], background=self._background)

        def run() -> None:
            for _ in range(20):
                edit.apply_(self._lm)()

        return run


if __name__ == "__main__":
    main()
