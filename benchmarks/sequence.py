"""What happens to time and memory when edits go on and on?

    python benchmarks/sequence.py                         # 1,000 facts, one edit each, few steps
    python benchmarks/sequence.py --turn 100 --steps 20   # ten edits of a hundred
    python benchmarks/sequence.py --together 100 300 1000 # one edit with so many

With few steps an edit is hardly optimised, so that what remains is what must not grow with the
number of edits: looking up, solving, protecting, applying, checking.
"""

import argparse
import statistics
import time
from functools import partial

from machine import matmul_flops, peak_gib, timed

import factlab as fl
from factlab.editing.runs import EditSequence


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--method", default="memit")
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--turn", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="of the optimisation")
    parser.add_argument("--together", type=int, nargs="+", help="one edit of so many facts each")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="what edits may use")
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(memory_gib=args.memory_gib)
    by_torch, _ = matmul_flops(lm)
    print(f"{lm.name}, large matrix product {by_torch / 1e9:.0f} GFLOP/s; "
          f"{peak_gib(lm):.2f} GiB with the model")  # fmt: skip
    facts, known = distinct_facts(), fl.editing.Background(values=None)
    method = fl.editing.method_named(args.method)
    config = method.config.model_validate({"value": {"steps": args.steps}})
    if args.together:
        for count in args.together:
            run = partial(method.together, lm, facts[:count], config, known)
            seconds, edit = timed(lm, run)
            print(f"{count:5d} facts together: {seconds:6.1f} s, {seconds / count:.2f} s each, "
                  f"peak {peak_gib(lm):.2f} GiB; {edit.updates[0].kind}")  # fmt: skip
        return
    in_turns(lm, facts[: args.facts], args.turn, EditSequence(lm, method, config, known))


def in_turns(lm, facts: list[fl.Fact], turn: int, sequence: EditSequence) -> None:
    """Time of every turn, in ten groups."""
    times: list[float] = []
    group = max(1, len(facts) // turn // 10)
    with sequence:
        sequence.prepare(facts)
        for start in range(0, len(facts), turn):
            began = time.perf_counter()
            sequence.write(facts[start : start + turn])
            times.append(time.perf_counter() - began)
            if len(times) % group == 0:
                print(f"after {start + turn:5d} facts: {statistics.median(times[-group:]):.3f} s "
                      f"a turn, peak {peak_gib(lm):.2f} GiB", flush=True)  # fmt: skip
    first, last = (statistics.median(some) for some in (times[:group], times[-group:]))
    print(f"last group / first group: {last / first:.2f}")


def distinct_facts() -> list[fl.Fact]:
    """Facts of the built-in data, one for each subject."""
    by_subject = {r.fact.subject: r.fact for r in reversed(fl.load_records("builtin"))}
    return list(reversed(by_subject.values()))


if __name__ == "__main__":
    main()
