"""How fast is the study of localisation, beside a straightforward loop and beside the machine?

    python benchmarks/localisation.py --model tiny:llama --edits 0   # everything, both ways
    python benchmarks/localisation.py                                # the bundled model

The loop (`plain_localisation.py`) has contexts and statistics at hand, is given the texts about the
subjects and what the model says under noise, and shares nothing else: each cell of a trace is a
pass through the whole model, each edit whole passes forward and backward for each step, and each
edited model is asked everything before and after. On a real model that takes hours. So `--cells` of
its traces and `--edits` of each method and problem, drawn by chance, are timed, and the time scaled
to all of them; `--edits 0` does them all. The scores of what was done both ways are
compared. Seconds are those of the processor, so that others on the machine do not count.

Useful operations are those that cannot be done without:

- trace: as in `benchmarks/trace.py`, for the cells of every window;
- edit: for each step, the tokens whose states the edit can change through the layers from the first
  edited one on, forward and backward; the gradient of the weights for fine-tuning; a readout for
  every token of a target and of the essence; each value once, whichever layers share it;
- ask: every row once through the whole model, and for each edit from its first layer on.
"""

import argparse
import cProfile
import math
import pstats
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from machine import layer_operations
from plain_localisation import edited, restored_prob, told

import factlab as fl
from factlab.editing import Background, Edit, SubjectNoise
from factlab.editing.closed_form.value_batch import prepare_requests
from factlab.editing.configs import FineTuneConfig
from factlab.editing.noised import level_of
from factlab.editing.requests import ValueRequest
from factlab.editing.variants import VARIANTS, problem
from factlab.evaluation import LocalisationConfig, LocalisedMethod
from factlab.evaluation.localising.configs import LEAST_FACTS
from factlab.evaluation.localising.effects import trace_config
from factlab.evaluation.localising.fact_batch import FactBatch
from factlab.evaluation.localising.known_facts import known_facts
from factlab.evaluation.localising.plan import Cell, Grid
from factlab.evaluation.localising.rows import EditRow, FactRow
from factlab.evaluation.localising.worker import Worker
from factlab.evaluation.measuring.subject_texts import subject_texts
from factlab.evaluation.scoring.problem_scores import problem_scores
from factlab.progress import silent
from factlab.tracing.cells import cells_of, parents_of
from factlab.tracing.trace import trace_fact

T = TypeVar("T")
PARTS = ("trace", "texts", "edit", "ask")
Key = tuple[int, str, int, str]  # fact, method, layer, problem


def main() -> None:
    args = arguments()
    fl.models.keep_freed_memory()
    lm = fl.load(args.model, device="cpu")
    is_tiny = (args.model or "").startswith("tiny:")
    by_torch = product_flops(lm)
    print(f"{lm.name}, {lm.dtype}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch")
    toy = {"answer_tokens": 0, "least_prob": 0} if is_tiny else {}
    config = LocalisationConfig(
        layers="0,1" if is_tiny else args.layers, essence_texts=args.essence,
        essence_tokens=args.essence_tokens, samples=args.samples, variants=args.variants, **toy,
    )  # fmt: skip
    worker = worker_of(lm, config, args.facts)
    ours = Study(worker)
    with cProfile.Profile() if args.profile else nullcontext() as profile:
        ours.run()
    grid, n_facts = worker.grid, len(worker.records)
    print(f"{n_facts} facts, layers {', '.join(map(str, grid.layers))}, {len(ours.rows)} edits:",
          ", ".join(f"{part} {spent:.1f} s" for part, spent in ours.seconds.items()),
          flush=True)  # fmt: skip
    if profile is not None:
        told_by = pstats.Stats(profile)
        told_by.sort_stats("cumulative").print_stats("factlab", 60)
        told_by.sort_stats("tottime").print_stats(25)
    loop, gaps = loop_of(worker, ours, args)
    useful = operations(worker, ours)
    print("\n| part | loop, s | study, s | ratio | TFLOP useful | GFLOP/s | of torch's product |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    sums = [sum(each.values()) for each in (loop, ours.seconds)]
    lines = [(part, loop[part], ours.seconds[part], useful[part]) for part in PARTS]
    for name, slow, fast, flops in [*lines, ("all", *sums, 0.0)]:
        shown = f"| {name} | {slow:.1f} | {fast:.1f} | {slow / max(fast, 1e-9):.1f} |"
        rate = flops / max(fast, 1e-9)
        counted = f" {flops / 1e12:.2f} | {rate / 1e9:.1f} | {rate / by_torch:.0%} |"
        print(shown + (counted if flops else " | | |"))
    print(f"\nseconds a fact: {sum(ours.seconds.values()) / n_facts:.1f}, and "
          f"{sum(loop.values()) / n_facts:.1f} by the loop\n")  # fmt: skip
    print("largest differences between both ways")
    for name, values in sorted(gaps.items()):
        print(f"  {name}: {max(values):.1e}, median {sorted(values)[len(values) // 2]:.1e}, "
              f"of {len(values)}")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--facts", type=int, default=3)
    parser.add_argument("--layers", default="4,20")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--essence", type=int, default=5)
    parser.add_argument("--essence-tokens", type=int, default=100)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--profile", action="store_true", help="say where our time goes")
    parser.add_argument("--cells", type=int, default=12, help="of traces by the loop")
    parser.add_argument("--edits", type=int, default=1, help="of each method and problem; 0: all")
    return parser.parse_args()


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the processor, which others that use the machine do not add to; and the result."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def product_flops(lm: fl.LanguageModel, size: int = 2048) -> float:
    """FLOP a second of the processor, of one large product at its best."""
    left, right = torch.randn(2, size, size, dtype=lm.dtype)
    return 2 * size**3 / min(timed(partial(torch.matmul, left, right))[0] for _ in range(5))


def worker_of(lm: fl.LanguageModel, config: LocalisationConfig, n_facts: int) -> Worker:
    """The study's worker on the first known facts, with contexts and statistics at hand."""
    records = fl.load_records("builtin", limit=32)
    known = known_facts(lm, records, config, max(n_facts, LEAST_FACTS), silent)
    places = known.places[:n_facts]
    level = level_of(lm, [record.fact for record in records])
    noise = SubjectNoise(level=level, samples=config.samples, seed=0)
    background = Background(values=None)
    grid = Grid.of(config, lm.n_layers)
    for cell in grid.cells:
        needed = cell.method.config("injection", cell.layer, lm.n_layers)
        if hasattr(needed, "contexts"):
            background.contexts(lm, needed.contexts)
            background.second_moments(lm, grid.edited_layers(cell), needed.stats)
    return Worker(lm, [records[i] for i in places], places, grid, noise, background)


class Study:
    """The study as `study_localisation` does it, timed by part.

    Args:
        worker: of the study.

    Attributes:
        seconds: by part.
        facts: their rows.
        rows: of edits.
        edits: the same edits.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.facts: dict[int, FactRow] = {}
        self.rows: dict[Key, EditRow] = {}
        self.edits: dict[Key, Edit] = {}

    def run(self) -> None:
        worker = self._worker
        config = worker.grid.config
        bare = config.model_copy(update={"essence_texts": 0})
        tracer = replace(worker, grid=replace(worker.grid, config=bare))
        for place, record in enumerate(worker.records):
            trace_s, row = timed(partial(tracer.fact_row, place))
            write = partial(
                subject_texts, worker.lm, [record.fact.subject], [worker.places[place]],
                config.essence_texts, config.essence_tokens, config.seed,
            )  # fmt: skip
            texts_s, (texts,) = timed(write)
            self.facts[place] = row.model_copy(update={"texts": texts})
            self.seconds["trace"] += trace_s
            self.seconds["texts"] += texts_s
        seconds, batch = timed(partial(worker.batch, self.facts))
        self.seconds["ask"] += seconds
        after = batch.after
        for cell in worker.grid.cells:
            batch.after = partial(self._asked, cell, after)
            asked_before = self.seconds["ask"]
            seconds, rows = timed(partial(worker.edit_rows, batch, self.facts, cell))
            self.seconds["edit"] += seconds - (self.seconds["ask"] - asked_before)
            self.rows |= {_key(cell, key): row for key, row in rows.items()}

    def _asked(self, cell: Cell, after: Callable, edits: dict, layer: int) -> dict:
        self.edits |= {_key(cell, key): edit for key, edit in edits.items()}
        seconds, found = timed(partial(after, edits, layer))
        self.seconds["ask"] += seconds
        return found


def _key(cell: Cell, key: tuple[int, str]) -> Key:
    return key[0], *_name(cell), key[1]


def _name(cell: Cell) -> tuple[str, int]:
    return cell.method.label, cell.layer


# -- the loop ---------------------------------------------------------------------------------


def loop_of(
    worker: Worker, ours: Study, args: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of the loop by part, scaled to the whole; and how far its numbers are from ours."""
    # Texts are given, and count as much as ours.
    seconds = dict.fromkeys(PARTS, 0.0) | {"texts": ours.seconds["texts"]}
    gaps = defaultdict[str, list[float]](list)
    cells = [*trace_cells(worker)]
    chosen = cells if args.edits == 0 else cells[:: max(1, len(cells) // max(1, args.cells))]
    spent = 0.0
    for place, window, layers, position, layer in chosen:
        fact = worker.records[place].fact
        took, prob = timed(partial(restored_prob, worker.lm, fact, worker.noise, layers, position))
        spent += took
        config = trace_config(worker.noise, window, (position,))
        config = config.model_copy(update={"layers": (layer,)})
        trace = trace_fact(worker.lm, fact, fact.target_true, config)
        effect = float(trace.effects["mlp"][position, layer]) + trace.corrupted_prob
        gaps["P(restored) of traces, relative"].append(abs(prob / effect - 1))
    seconds["trace"] = spent * len(cells) / len(chosen)
    for keys, n_alike in edits_drawn(worker, ours, args.edits):
        for key, cell in keys:
            took = one_edit(worker, ours, cell, key, gaps)
            for part, each in zip(("edit", "ask"), took, strict=True):
                seconds[part] += each * n_alike / len(keys)
    return seconds, gaps


def trace_cells(worker: Worker) -> Iterator[tuple[int, int, range, int, int]]:
    """Every restoration of the study: fact, window, its layers, the position, and the layer."""
    n_layers, config = worker.lm.n_layers, worker.grid.config
    for place, record in enumerate(worker.records):
        row = worker.lm.fact_continuation(record.fact, str(record.fact.target_true))
        for window in config.windows_of(n_layers):
            for position in range(row.subject.start, row.n_prompt):
                for cell in cells_of(worker.lm.layers, trace_config(worker.noise, window, ())):
                    yield place, window, range(cell.first, cell.stop), position, cell.layer


def edits_drawn(
    worker: Worker, ours: Study, n_edits: int
) -> Iterator[tuple[list[tuple[Key, Cell]], int]]:
    """Some edits of each method and problem, drawn by chance; and how many it has."""
    alike: dict[tuple[str, str], list[tuple[Key, Cell]]] = defaultdict(list)
    for cell in worker.grid.cells:
        for key, row in ours.rows.items():
            if key[1:3] == _name(cell) and row.failed is None:
                alike[key[1], key[3]].append((key, cell))
    chosen = random.Random(0)
    for some in alike.values():
        yield chosen.sample(some, min(n_edits or len(some), len(some))), len(some)


def one_edit(
    worker: Worker, ours: Study, cell: Cell, key: Key, gaps: dict[str, list[float]]
) -> tuple[float, float]:
    """Ask, edit, ask again: seconds of editing and of asking."""
    lm, place, row = worker.lm, key[0], ours.rows[key]
    record, texts = worker.records[place], ours.facts[place].texts
    noise = worker.noise if row.variant == "forcing" else None
    config = cell.method.config(row.variant, cell.layer, lm.n_layers)
    asked = problem(
        cell.method.method, record.fact, row.variant, config, ours.facts[place].said, worker.noise
    )
    n_tokens = worker.grid.config.essence_tokens
    ask = partial(told, lm, record, asked.target, texts, noise, n_tokens)
    first_s, (before, n_text) = timed(ask)
    began = time.process_time()
    with edited(lm, cell, asked, worker.background) as losses:
        edit_s = time.process_time() - began
        second_s, (after, _) = timed(ask)
    slow = problem_scores(before, after, row.variant, n_text)
    fast = problem_scores(row.before, row.after, row.variant, row.text_lengths)
    apart = [abs(slow[name] - fast[name]) for name in slow]
    gaps[f"scores, {key[1]}"] += [gap for gap in apart if not math.isnan(gap)]
    history = ours.edits[key].diagnostics["loss"]
    gaps["last losses"].append(abs(history[-1] - losses[-1]))
    gaps["steps"].append(abs(len(history) - len(losses)))
    return edit_s, first_s + second_s


# -- what must be done ------------------------------------------------------------------------


def operations(worker: Worker, ours: Study) -> dict[str, float]:
    """As in the formula above."""
    return {
        "texts": 0.0,  # not counted
        "trace": sum(traced(worker, place) for place in ours.facts),
        "edit": sum(values_found(worker, ours).values()) + fine_tuned(worker, ours),
        "ask": asked_operations(worker, ours, worker.batch(ours.facts)),
    }


def readouts(lm: fl.LanguageModel, count: float) -> float:
    return count * 2 * lm.d_model * lm.embedding.weight.shape[0]


def traced(worker: Worker, place: int) -> float:
    lm, fact, total = worker.lm, worker.records[place].fact, 0.0
    row = lm.fact_continuation(fact, str(fact.target_true))
    n_tokens, n_reads = len(row.inputs), len(row.target_ids)
    layer = layer_operations(lm, n_tokens)
    for window in worker.grid.config.windows_of(lm.n_layers):
        cells = cells_of(lm.layers, trace_config(worker.noise, window, ()))
        parents = parents_of(cells)
        for position in range(row.subject.start, row.n_prompt):
            for cell in cells:
                joins = cell.stop if cell in parents else cell.first + 1
                through = max(0, lm.n_layers - 1 - joins) * (n_tokens - position)
                last = n_reads if joins < lm.n_layers else 0
                total += (through + last) * layer + readouts(lm, n_reads)
    return total * worker.noise.samples


def fine_tuned(worker: Worker, ours: Study) -> float:
    lm, total = worker.lm, 0.0
    for key, edit in ours.edits.items():
        method = method_of(worker, key)
        if method.method.config is not FineTuneConfig:
            continue
        layers = method.layers(key[2], lm.n_layers)
        fact = worker.records[key[0]].fact
        row = lm.fact_continuation(fact, ours.rows[key].target)
        samples = worker.noise.samples if key[3] == "forcing" else 1
        tokens, steps = samples * len(row.inputs), len(edit.diagnostics["loss"])
        layer = layer_operations(lm, len(row.inputs))
        forward = tokens * (lm.n_layers - layers[0]) * layer
        forward += readouts(lm, samples * len(row.target_ids))
        weights = tokens * len(layers) * 2 * lm.d_model * lm.d_mlp
        total += steps * forward + (steps - 1) * (forward + weights)
    return total


def method_of(worker: Worker, key: Key) -> LocalisedMethod:
    return next(one for one in worker.grid.config.methods if one.label == key[1])


def values_found(worker: Worker, ours: Study) -> dict[tuple[object, ...], float]:
    """Operations of every value that is another one than the others."""
    lm, found = worker.lm, dict[tuple[object, ...], float]()
    for key, edit in ours.edits.items():
        method = method_of(worker, key)
        if method.method.config is FineTuneConfig:
            continue
        layers = method.layers(key[2], lm.n_layers)
        config = method.config(ours.rows[key].variant, key[2], lm.n_layers)
        contexts = worker.background.contexts(lm, config.contexts)
        request = ValueRequest(worker.records[key[0]].fact, ours.rows[key].target)
        (prepared,) = prepare_requests(lm, [request], contexts)
        through = lm.n_layers - layers[-1] - (method.width > 1)
        tokens = sum(len(row.inputs) - row.lookup for row in prepared.rows)
        width = sum(len(row.inputs) for row in prepared.rows) / len(prepared.rows)
        forward = tokens * through * layer_operations(lm, 2 * width)
        forward += readouts(lm, prepared.n_reads)
        steps = len(edit.diagnostics["loss"])
        kind = ours.rows[key].target, key[3] == "erasure", key[3] == "forcing"
        found[key[0], key[1], layers[-1], *kind] = (2 * steps - 1) * forward
    return found


def asked_operations(worker: Worker, ours: Study, batch: FactBatch) -> float:
    lm, total = worker.lm, 0.0

    def of(rows: Sequence, first: int) -> float:
        tokens = sum(len(row.inputs) * layer_operations(lm, len(row.inputs)) for row in rows)
        return tokens * (lm.n_layers - first) + readouts(lm, sum(len(r.reads) for r in rows))

    every = {row for asked in batch.asked.values() for row in getattr(asked, "rows", ())}
    total += of([*every], 0)
    for cell in worker.grid.cells:
        first = worker.grid.edited_layers(cell)[0]
        for key in ours.edits:
            if key[1:3] == _name(cell):
                total += of(batch.asked[key[0], key[3]].rows, first)
    return total


if __name__ == "__main__":
    main()
