"""Sharing a run out: what claims cost, and how much of the time many workers work.

    python benchmarks/workers.py [--workers 64] [--blocks 20] [--seconds 2]

Workers of a real run in a real folder sleep in the place of a block's work, so that many of them
fit on a few cores: their efficiency is the time slept in all, over workers times the time that it
took. That all begin and end together is the worst case: real blocks end one by one.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from factlab.journal import Journal, merge
from factlab.shards import Shard

RECORD = {"row": "x" * 2000}  # as long as the row of a record


def work(folder: Path, blocks: list[list[int]], seconds: float, begin: Barrier) -> None:
    """Take blocks, and sleep for each."""
    journal = Journal.load(folder)
    begin.wait()
    with journal.writing(Shard.any()) as writer:
        for block in writer.to_do(blocks):
            time.sleep(seconds)
            for case in block:
                writer.append(case, {**RECORD})


def run(folder: Path, n_workers: int, n_blocks: int, seconds: float) -> float:
    """Seconds in which workers do blocks of a new run."""
    blocks = [[2 * i, 2 * i + 1] for i in range(n_blocks)]
    Journal.create(folder, {}, {"cases": [*range(2 * n_blocks)]})
    forked = multiprocessing.get_context("fork")
    begin = forked.Barrier(n_workers + 1)
    args = (folder, blocks, seconds, begin)
    workers = [forked.Process(target=work, args=args) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    begin.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    journal = Journal.load(folder)
    if len(journal.records) != 2 * n_blocks or any(worker.exitcode for worker in workers):
        sys.exit("A block was lost, or a worker failed.")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What claims cost.")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=20, help="for each worker")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a block takes")
    given = parser.parse_args()
    n_blocks = given.workers * given.blocks
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        alone = run(place / "alone", 1, 500, 0.0)
        print(
            f"one worker, blocks without work: {1000 * alone / 500:.2f} ms for a claim and 2 rows"
        )
        took = run(place / "many", given.workers, n_blocks, given.seconds)
        ideal = given.blocks * given.seconds
        print(
            f"{given.workers} workers, {n_blocks} blocks of {given.seconds} s: {took:.1f} s, of "
            f"which {ideal:.1f} s are work: efficiency {100 * ideal / took:.1f} %"
        )
        began = time.perf_counter()
        merge([place / "many"], place / "merged")
        merging = time.perf_counter() - began
        share = merging / (given.workers * ideal)
        print(f"merging {2 * n_blocks} rows: {merging:.2f} s, {100 * share:.3f} % of all work")


if __name__ == "__main__":
    main()
