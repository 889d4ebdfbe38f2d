"""How fast is a causal trace, beside the straightforward way and beside the machine?

    python benchmarks/trace.py                       # the Eiffel Tower prompt, everything timed
    python benchmarks/trace.py --facts 20            # well-known facts; the slow way is sampled
    python benchmarks/trace.py --dtype bfloat16      # ours in another dtype, deviation from float32

The straightforward way is one forward pass per cell, of one clean and all corrupted rows, through
all layers and tokens with all logits, as plain hooks do it (`tests/reference/slow_trace.py`). All
its cells cost the same, so with --facts some of them are timed and the time scaled.

Useful operations count what a restoration can change and what its readout needs:

    Σ over positions i from the subject on, over cells that are not one and the same run:
        samples · [ (L − 1 − j) · (T − i) · layer + layer + readout ]

with T tokens, L layers, j the first layer that differs in more than the restored token, `layer` the
operations of one layer on one token (two per weight, and attention over the context), and the last
layer needed at the last token only.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch
from machine import layer_operations, matmul_flops

import factlab as fl
from factlab.data.well_known import WELL_KNOWN
from factlab.tracing.cells import cells_of, parents_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "reference"))
from slow_trace import slow_effects, trace_modules

EIFFEL = fl.Fact("{} is located in the city of", "The Eiffel Tower")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--facts", type=int, default=0, help="average over so many facts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument(
        "--cells", type=int, default=12, help="cells of the slow way to time, with --facts"
    )
    parser.add_argument("--skip-slow", action="store_true")
    parser.add_argument("--profile", action="store_true", help="say where our time goes")
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(args.model, dtype=args.dtype)
    config = fl.tracing.TraceConfig(samples=args.samples, window=args.window)
    torch_flops, ours_flops = matmul_flops(lm)
    print(f"{lm.name}, {args.dtype}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {torch_flops / 1e9:.0f} GFLOP/s by torch", end="")
    print(f", {ours_flops / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")

    fl.causal_trace(lm, EIFFEL, config=config.model_copy(update={"positions": (9,)}))  # warm up
    facts = [EIFFEL]
    if args.facts:
        known = [
            f
            for f, known in zip(WELL_KNOWN, fl.tracing.knows(lm, WELL_KNOWN), strict=True)
            if known
        ]
        facts = [in_context(fact, i) for i, fact in enumerate(known[: args.facts])]
    ratios, shares = [], []
    for fact in facts:
        began = time.perf_counter()
        trace = fl.causal_trace(lm, fact, config=config)
        ours_s = time.perf_counter() - began
        ops = useful_operations(lm, trace)
        flops = ops / ours_s
        shares.append(flops / torch_flops)
        print(f"\n{fact.prompt!r}: {len(trace.tokens)} tokens, subject {tuple(trace.subject_span)}")
        print(f"  ours            {ours_s:7.1f} s   {ops / 1e12:.2f} TFLOP useful, "
              f"{flops / 1e9:.0f} GFLOP/s: {flops / torch_flops:.0%} of torch's product, "
              f"{flops / ours_flops:.0%} of ours")  # fmt: skip
        if args.skip_slow:
            continue
        slow_s, gap, share = straightforward(lm, fact, trace, args.cells if args.facts else None)
        ratios.append(slow_s / ours_s)
        how = "" if share == 1 else f" (from {share:.1%} of its cells)"
        print(f"  straightforward {slow_s:7.1f} s{how}, {slow_s / ours_s:.1f} times as long; "
              f"largest difference {gap:.1e}")  # fmt: skip
    if len(facts) > 1:
        print(f"\nover {len(facts)} facts: useful FLOP/s {mean(shares):.0%} of torch's product")
        if ratios:
            print(f"ratio {mean(ratios):.1f} on average, {min(ratios):.1f} to {max(ratios):.1f}")
    if args.dtype != "float32":
        deviation(lm, args.model, config)
    if args.profile:
        profile(lm, config)


def in_context(fact: fl.Fact, number: int) -> fl.Fact:
    """Some facts as they are, some with words before the subject: it may stand anywhere."""
    lead = ("", "", "As everyone knows, ", "In the news today: ")[number % 4]
    return fl.Fact(lead + fact.template, fact.subject, target_true=fact.target_true)


def useful_operations(lm: fl.LanguageModel, trace: fl.CausalTrace) -> float:
    """As in the formula above, of one trace."""
    n_tokens, config = len(trace.tokens), trace.config
    layer = layer_operations(lm, n_tokens)
    readout = 2 * lm.d_model * lm.embedding.weight.shape[0]
    cells = cells_of(lm.layers, config)
    parents = parents_of(cells)
    total = 0.0
    for position in range(trace.subject_span.start, n_tokens):
        for cell in cells:
            joins = cell.stop if cell in parents else cell.first + 1
            through = max(0, lm.n_layers - 1 - joins) * (n_tokens - position) * layer
            last = layer if joins < lm.n_layers else 0.0
            total += config.samples * (through + last + readout)
    return total


def straightforward(
    lm: fl.LanguageModel, fact: fl.Fact, trace: fl.CausalTrace, n_cells: int | None
) -> tuple[float, float, float]:
    """Seconds for all cells, the largest difference from ours, and the share that was run."""
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    positions, layers = list(range(tokens.n_prompt)), list(range(lm.n_layers))
    if n_cells is not None:
        chosen = random.Random(0)
        positions = sorted(chosen.sample(positions[span.start :], 2))
        layers = sorted(chosen.sample(layers, max(1, n_cells // 6)))
    generator = torch.Generator("cpu").manual_seed(trace.config.seed)
    shape = (trace.config.samples, span.stop - span.start, lm.embedding.weight.shape[1])
    noise = trace.noise_level * torch.randn(shape, generator=generator)
    share = len(positions) * len(layers) / (tokens.n_prompt * lm.n_layers)
    with torch.no_grad():
        began = time.perf_counter()
        slow, _, _ = slow_effects(
            lm.model, lm.embedding, trace_modules(lm), list(tokens.ids), span, noise,
            trace.config.window, positions, layers,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    gaps = [(trace.effects[k] - effects).nan_to_num().abs().max() for k, effects in slow.items()]
    n_run = 3 * len(positions) * len(layers)
    # One pass without restoration gives the corrupted probability; it is not a cell's.
    return seconds * n_run / (n_run + 1) / share, float(max(gaps)), share


def deviation(lm: fl.LanguageModel, name: str | None, config: fl.tracing.TraceConfig) -> None:
    """How far a trace in this dtype is from one in float32."""
    ours = fl.causal_trace(lm, EIFFEL, config=config)
    exact = fl.causal_trace(fl.load(name, dtype="float32"), EIFFEL, config=config)
    print(f"\nbeside float32: p(clean) {ours.clean_prob:.4f} and {exact.clean_prob:.4f}, "
          f"p(corrupted) {ours.corrupted_prob:.4f} and {exact.corrupted_prob:.4f}")  # fmt: skip
    for kind, effects in exact.effects.items():
        gap = (ours.effects[kind] - effects).abs()
        position, layer, peak = ours.peak(kind)
        print(f"  {kind:6s} largest difference {gap.max():.4f}, mean {gap.mean():.5f}; "
              f"peak {peak:.3f} at ({position}, {layer}) and {exact.peak(kind)[2]:.3f} at "
              f"{exact.peak(kind)[:2]}")  # fmt: skip


def profile(lm: fl.LanguageModel, config: fl.tracing.TraceConfig) -> None:
    """Share of our time by operation, for one position in the middle."""
    with torch.profiler.profile() as profiler:
        fl.causal_trace(lm, EIFFEL, config=config.model_copy(update={"positions": (4,)}))
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("\nwhere the time goes:")
    for event in events[:12]:
        print(f"  {event.self_cpu_time_total / total:6.1%}  {event.key}")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
