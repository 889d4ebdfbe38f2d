"""The three ways of running a model, against a straightforward loop: one trace by each.

    python benchmarks/engines.py [--model NAME] [--samples 10]

All restorations at the last token of the subject. The straightforward loop makes one forward pass
for each, with hooks, and takes all logits: with every noise sample in a pass of its own, and with
the samples of a restoration in one batch, as the ROME paper's code has them. How long loading
takes, and the check in it, is measured beside.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from machine import matmul_flops, timed

import factlab as fl
from factlab.hooks import Site, Stream, intervene
from factlab.models.check import examine
from factlab.models.engines.plain import PlainPasses
from factlab.models.engines.shell import Shell
from factlab.models.engines.states import StatesReplay
from factlab.models.language_model import LanguageModel
from factlab.tracing.cells import cells_of, restored_sites
from factlab.tracing.configs import TraceConfig
from factlab.tracing.corruption import put_noise, with_level
from factlab.tracing.restoration import exact_effects
from factlab.tracing.runs import plan_corrupted, run_clean
from factlab.tracing.whole_passes import effects_by_whole_passes

Hooks = dict[Site, Callable[[torch.Tensor], torch.Tensor]]
FACT = fl.Fact("{} is located in the city of", "The Eiffel Tower", target_true="Paris")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="restore at every n-th layer")
    args = parser.parse_args()
    began = time.perf_counter()
    lm = fl.load(args.model)
    loading = time.perf_counter() - began
    checking, _ = timed(lm, lambda: examine(lm.model))
    print(f"{matmul_flops(lm)[0] / 1e9:.0f} GFLOP/s in one large product")
    print(f"{lm.name}: loaded in {loading:.2f} s, of which the check {checking:.2f} s")
    layers = tuple(range(0, lm.n_layers, args.every))
    config = TraceConfig(samples=args.samples, positions="last_subject", layers=layers)
    config = config.model_copy(update={"window": config.window_of(lm.n_layers)})
    cells = cells_of(lm.layers, config)
    print(f"{len(cells)} restorations, {args.samples} samples each")
    engines = {"as it is loaded": lm.engine, **other_engines(lm)}
    found: dict[str, tuple[float, torch.Tensor]] = {}
    for name, engine in engines.items():
        lm.engine = engine
        found[f"{name}: {engine.name}"] = timed(lm, partial(effects, lm, config))
    lm.engine = engines["as it is loaded"]
    for name, at_once in (("samples in one pass", args.samples), ("a pass per sample", 1)):
        found[f"loop, {name}"] = timed(lm, partial(loop, lm, config, at_once))
    slowest, reference = found["loop, a pass per sample"][0], found["loop, samples in one pass"][1]
    print("| run by | seconds | of a pass per sample | largest difference |")
    print("|---|---:|---:|---:|")
    for name, (seconds, values) in found.items():
        gap = float((values - reference).nan_to_num().abs().max())
        print(f"| {name} | {seconds:.2f} | {slowest / seconds:.1f}× faster | {gap:.0e} |")


def other_engines(lm: LanguageModel) -> dict[str, object]:
    """What the model could be run by too."""
    anatomy = lm.layers.anatomy
    layers = list(lm.model.get_submodule(anatomy.layers).children())
    shell = Shell(lm.model, anatomy.layers, anatomy.embed, returns_tuple=False)
    return {
        "forced": StatesReplay(layers, shell),
        "forced ": PlainPasses(lm.model, layers, list(range(len(layers))), bare=False),
    }


def effects(lm: LanguageModel, config: TraceConfig) -> torch.Tensor:
    """Effects of all restorations, (kind, layer)."""
    with torch.no_grad(), lm.frozen():
        clean = run_clean(lm, FACT, None, config)
        planned = plan_corrupted(lm, FACT, clean, config, [])
        measure = exact_effects if lm.engine.replays_other_texts else effects_by_whole_passes
        result = measure(lm, clean, planned, [clean.span.last], config, lambda *_: None)
    return torch.stack([result.by_kind[kind][clean.span.last] for kind in config.kinds])


@torch.no_grad()
def loop(lm: LanguageModel, config: TraceConfig, at_once: int) -> torch.Tensor:
    """The same, one restoration after the other, by transformers' own forward pass."""
    with lm.frozen():
        clean = run_clean(lm, FACT, None, config)
    ids, span = list(clean.continuation.inputs), clean.span
    level = with_level(config.corruption, lm, clean.continuation.subject_ids, []).level
    generator = torch.Generator("cpu").manual_seed(config.seed)
    shape = (config.samples, span.stop - span.start, lm.embedding.weight.shape[1])
    noise = level * torch.randn(shape, generator=generator)
    answer, at_embedding = clean.continuation.target_ids[0], Site(0, Stream.EMBED)

    def prob(
        hooks: dict[Site, Callable[[torch.Tensor], torch.Tensor]], some: torch.Tensor
    ) -> float:
        corrupt = partial(put_noise, noise=some, span=span, replace=False)
        with intervene(lm, {at_embedding: corrupt, **hooks}):
            logits = lm.model(torch.tensor([ids] * len(some)), use_cache=False).logits
        return float(logits[:, len(ids) - 1].softmax(-1)[:, answer].sum())

    def put(site: Site, state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[:, span.last] = clean.states[site][span.last]
        return state

    pieces = noise.split(at_once)
    base = sum(prob({}, some) for some in pieces)
    found = torch.zeros(len(config.kinds), lm.n_layers)
    for cell in cells_of(lm.layers, config):
        hooks = {site: partial(put, site) for site in restored_sites(lm.layers, cell)}
        total = sum(prob(hooks, some) for some in pieces)
        found[config.kinds.index(cell.kind), cell.layer] = (total - base) / config.samples
    return found


if __name__ == "__main__":
    main()
