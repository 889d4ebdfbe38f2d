"""How much memory does a command take, the whole process and its weights included?

    python benchmarks/memory.py                        # a model of GPT-2 XL's shape, random weights
    python benchmarks/memory.py --shape gpt2-xl --memory-gib 1 --only rome memit
    python benchmarks/memory.py --tiny                 # the same on a small shape

Every command runs in a process of its own, of which the most that it ever held is printed beside
what `factlab memory` reckons. Optimisations have few steps: their number changes no size.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from gpu import SHAPES, shaped, some_facts
from machine import peak_gib

import factlab as fl
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import Corpus

VALUE = fl.editing.ValueConfig(steps=2)
N_FACTS = 20
PYTHON_GIB = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES], default="gpt2-xl")
    parser.add_argument("--memory-gib", type=float, default=1.0, help="besides the weights")
    parser.add_argument("--only", nargs="+", choices=[*COMMANDS], default=[*COMMANDS])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--here", choices=[*COMMANDS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.device = "cpu"
    if args.here:
        lm = shaped(args.shape, args)
        lm.memory_gib = args.memory_gib
        with_model = peak_gib(lm)
        COMMANDS[args.here](lm, _layers(args))
        print(f"{args.here:10}  {with_model:11.2f}  {peak_gib(lm):11.2f}  "
              f"{reckoned(lm, args):11.2f}", flush=True)  # fmt: skip
        return
    print(f"{args.shape}, {args.memory_gib:g} GiB allowed besides the weights")
    print(f"{'command':10}  {'model, GiB':>11}  {'at most':>11}  {'reckoned':>11}", flush=True)
    more = ["--tiny"] * args.tiny + ["--shape", args.shape, "--memory-gib", str(args.memory_gib)]
    for name in args.only:
        subprocess.run([sys.executable, __file__, "--here", name, *more], check=True)


def reckoned(lm: fl.LanguageModel, args: argparse.Namespace) -> float:
    """GiB, with what Python and PyTorch take."""
    model = fl.models.Footprint.of(lm.model.config, args.shape)
    like = {"eval": "rome"}.get(args.here, args.here)
    besides = model.besides(len(_layers(args))).get(like, 0.0)
    return model.weights_gib(lm.dtype) + besides + args.memory_gib + PYTHON_GIB


def _layers(args: argparse.Namespace) -> tuple[int, ...]:
    return (0, 1) if args.tiny else SHAPES[args.shape].layers


def _model(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    """Nothing but a text."""
    del layers
    lm.generate_batch(["The Louvre is in"], 4)


def _trace(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    config = fl.tracing.TraceConfig(positions="last_subject", layers=layers)
    fl.causal_trace(lm, some_facts(1)[0], config=config)


def _stats(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    """All layers that MEMIT edits in one pass over text; how much of it makes no difference."""
    ids = torch.randint(10, 400, (8, 512), generator=torch.Generator().manual_seed(0))
    collect_second_moments(lm, layers, Corpus(tuple(map(tuple, ids.tolist())), "random tokens"))


def _saved(lm: fl.LanguageModel, layers: tuple[int, ...]) -> fl.editing.Background:
    """Statistics of random keys, as they come from a cache."""
    with tempfile.TemporaryDirectory() as folder:
        moments: list[fl.stats.SecondMoment] = []
        for layer in layers:
            generator, path = torch.Generator().manual_seed(layer), Path(folder) / str(layer)
            keys = torch.randn(2 * lm.d_mlp, 64, generator=generator)[: lm.d_mlp].double()
            matrix = (keys @ keys.T).add_(torch.eye(lm.d_mlp, dtype=torch.float64))
            n = 100 * lm.d_mlp
            fl.stats.SecondMoment(matrix, layer, n, "random", lm.fingerprint).save(path)
            del matrix
            moments.append(fl.stats.SecondMoment.load(path))
    return fl.editing.Background.of(moments)


def _rome(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    config = fl.editing.RomeConfig(layer=layers[-1], value=VALUE)
    fl.rome(lm, some_facts(1)[0], config, background=_saved(lm, layers[-1:]))


def _memit(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    config = fl.editing.MemitConfig(layers=layers, value=VALUE)
    fl.memit(lm, some_facts(N_FACTS), config, background=_saved(lm, layers))


def _alphaedit(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    config = fl.editing.AlphaEditConfig(layers=layers, value=VALUE)
    fl.editing.alphaedit(lm, some_facts(N_FACTS), config, background=_saved(lm, layers))


def _ft(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    config = fl.editing.FineTuneConfig(layer=layers[-1], steps=2)
    fl.editing.fine_tune(lm, some_facts(1)[0], config=config)


def _eval(lm: fl.LanguageModel, layers: tuple[int, ...]) -> None:
    """ROME, and texts that are written."""
    config = fl.editing.RomeConfig(layer=layers[-1], value=VALUE)
    measure = fl.evaluation.MeasureConfig(text_tokens=20)
    with tempfile.TemporaryDirectory() as folder:
        fl.evaluate(
            lm, fl.load_records("builtin", limit=2), "rome", Path(folder) / "run", config=config,
            measure=measure, background=_saved(lm, layers[-1:]),
        )  # fmt: skip


COMMANDS: dict[str, Callable[[fl.LanguageModel, tuple[int, ...]], None]] = {
    "generate": _model,
    "trace": _trace,
    "stats": _stats,
    "rome": _rome,
    "memit": _memit,
    "alphaedit": _alphaedit,
    "ft": _ft,
    "eval": _eval,
}

if __name__ == "__main__":
    main()
