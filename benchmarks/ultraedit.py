"""How fast is UltraEdit, turn by turn, beside the machine?

    python benchmarks/ultraedit.py                        # the bundled model, 1,000 facts
    python benchmarks/ultraedit.py --facts 300 --turn 1

Facts are built-in ones, one for each subject, written in a sequence: what is timed is the edits
alone, putting them on the model included. Useful operations of a turn are a forward pass of every
token through all layers, a backward pass (with respect to states only) of the places that are read
through the layers from the lowest that is edited on, and a readout of these places both ways.
"""

import argparse
import time

import torch
from machine import layer_operations, matmul_flops, peak_gib

import factlab as fl
from factlab.editing.methods import METHODS
from factlab.editing.runs import EditSequence


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--turn", type=int, default=100)
    parser.add_argument("--device", default=None)
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(device=args.device)
    by_torch, by_ours = matmul_flops(lm)
    print(f"{lm.name}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch, "
          f"{by_ours / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")  # fmt: skip
    facts = one_per_subject(args.facts)
    with EditSequence(lm, METHODS["ultraedit"], None, None) as sequence:
        sequence.prepare(facts)
        seconds: list[float] = []
        worked = time.process_time()
        for start in range(0, len(facts), args.turn):
            began = time.perf_counter()
            sequence.write(facts[start : start + args.turn])
            seconds.append(time.perf_counter() - began)
        worked = time.process_time() - worked
        first = sequence.edits[0].diagnostics["layers"][0]
    total, tenth = sum(seconds), max(1, len(seconds) // 10)
    flops = sum(useful_operations(lm, fact, first) for fact in facts) / total
    print(f"{len(facts)} facts in turns of {args.turn}: {total:.1f} s, "
          f"{len(facts) / total:.1f} facts per second; {worked:.1f} s of processors")  # fmt: skip
    print(f"a turn: {sum(seconds[:tenth]) / tenth:.2f} s in the first tenth of the sequence, "
          f"{sum(seconds[-tenth:]) / tenth:.2f} s in the last")  # fmt: skip
    print(f"useful: {flops / 1e9:.0f} GFLOP/s, {flops / by_torch:.0%} of torch's product, "
          f"{flops / by_ours:.0%} of ours; peak memory {peak_gib(lm):.1f} GiB")  # fmt: skip


def one_per_subject(count: int) -> list[fl.Fact]:
    """Built-in facts in a fixed order, shuffled."""
    by_subject: dict[str, fl.Fact] = {}
    for record in fl.load_records("builtin", seed=1):
        by_subject.setdefault(record.fact.subject, record.fact)
    return list(by_subject.values())[:count]


def useful_operations(lm: fl.LanguageModel, fact: fl.Fact, first: int) -> float:
    row = lm.continuation(fact.prompt, fact.target_new)
    n_tokens, n_read = len(row.inputs), len(row.reads)
    forward = n_tokens * lm.n_layers * layer_operations(lm, n_tokens)
    backward = n_read * (lm.n_layers - first) * layer_operations(lm, n_tokens)
    readout = n_read * 2 * lm.d_model * lm.embedding.weight.shape[0]
    return forward + backward + 2 * readout


if __name__ == "__main__":
    main()
