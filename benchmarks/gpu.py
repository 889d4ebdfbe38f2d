"""Does a GPU come to what the CPU comes to, and how fast is it? One script, a few minutes.

    python benchmarks/gpu.py --out gpu.json              # on one H100 or H200, under nine minutes
    python benchmarks/gpu.py --shape gpt2-xl --minutes 4
    python benchmarks/gpu.py --tiny                      # the whole of it on small shapes, anywhere

First small models of every family are run on the CPU and on the GPU, in float64 and in bfloat16:
logits, and in float64 a trace and a ROME edit too. Then random weights in the shapes of large
models are traced, edited and measured; beside that stands the straightforward way where it is
cheap: a whole forward pass per restored state, a whole forward and backward pass per step of a
value, `generate` of transformers. Nothing is downloaded: the tokenizer is that of the small models,
so a word is two or three tokens.

Every part has its share of the time; what takes longer is stopped and noted as such, and what
cannot begin in time is left out. The file is written anew behind each part, so a run that is killed
leaves what it had.
"""

import argparse
import gc
import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import matmul_flops, peak_gib, timed
from tokenizers import Tokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import factlab as fl
from factlab.data.well_known import WELL_KNOWN
from factlab.editing.closed_form.value import optimise_values
from factlab.editing.requests import ValueRequest
from factlab.families import ARCHITECTURES
from factlab.models.tiny import BOS, EOS, tiny_tokenizer
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import Corpus
from factlab.storage import write_text
from factlab.tokens import pad

FACT = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
TINY_MINUTES = 1.0


@dataclass(frozen=True)
class Shape:
    """A large model: how it is made, its dtype, and the layers that ROME and MEMIT edit."""

    make: Callable[[bool], Any]
    dtype: torch.dtype
    layer: int
    layers: tuple[int, ...]


def _gpt2(tiny: bool) -> Any:
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 2} if tiny else {
        "n_embd": 1600, "n_layer": 48, "n_head": 25}  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(vocab_size=500 if tiny else 50257, **sizes))


def _gptj(tiny: bool) -> Any:
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 2, "rotary_dim": 8} if tiny else {}
    return GPTJForCausalLM(GPTJConfig(vocab_size=500 if tiny else 50400, **sizes))


def _llama(tiny: bool) -> Any:
    sizes = (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
         "num_attention_heads": 2, "num_key_value_heads": 1}
        if tiny
        else {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0}
    )  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(vocab_size=500 if tiny else 128256, **sizes))


SHAPES = {
    "gpt2-xl": Shape(_gpt2, torch.float32, 17, (13, 14, 15, 16, 17)),
    # Fewer layers than MEMIT edits of these, for the sake of time.
    "gpt-j": Shape(_gptj, torch.bfloat16, 5, (7, 8)),
    "llama-3-8b": Shape(_llama, torch.bfloat16, 5, (4, 5)),
}


class TimeUpError(Exception):
    """A part took longer than its share."""


@dataclass
class Report:
    """What was found, in a file that is written anew whenever more is known.

    Attributes:
        ends: when the whole must be over, by `time.monotonic`.
        out: where to.
        found: everything, by part.
    """

    ends: float
    out: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @contextmanager
    def part(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """A part that is given so many seconds, or what is left; its errors end only itself."""
        part: dict[str, Any] = {}
        self.found[name] = part
        seconds, began = min(seconds, self.left() - 5), time.monotonic()
        if seconds < 1:
            part["left_out"] = "no time was left"
        else:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield part
        except TimeUpError:
            part.setdefault("stopped", f"after its share of {seconds:.0f} s")
        except (fl.FactlabError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            part["error"] = f"{type(error).__name__}: {error}"[:500]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            part["seconds"] = round(time.monotonic() - began, 2)
            print(f"{name}: {json.dumps(part)}", flush=True)
            if self.out is not None:
                write_text(self.out, json.dumps(self.found, indent=1) + "\n")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None, help="the JSON file")
    parser.add_argument("--minutes", type=float, default=None, help="never longer; 9 by default")
    parser.add_argument("--shape", choices=[*SHAPES], action="append", help="only these")
    parser.add_argument("--families", default=None, help="only these, with commas; '' for none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small shapes, about a minute")
    args = parser.parse_args(argv)
    minutes = args.minutes or (TINY_MINUTES if args.tiny else 9.0)
    os.environ.setdefault("FACTLAB_VALUES_MIB", "0")  # no values of the time before
    report = Report(time.monotonic() + 60 * minutes, args.out)
    before = signal.signal(signal.SIGALRM, _time_is_up)
    try:
        machine(report, args)
        names = list(ARCHITECTURES) if args.families is None else args.families.split(",")
        families(report, [name for name in names if name], args.device, 60 * minutes * 0.25)
        shapes = args.shape or [*SHAPES]
        for i, name in enumerate(shapes):
            measured(report, name, args, (report.left() - 5) / (len(shapes) - i))
    finally:
        signal.signal(signal.SIGALRM, before)
    return report.found


def _time_is_up(*_: object) -> None:
    raise TimeUpError


# -- the machine, and whether it is right -------------------------------------------------------


def machine(report: Report, args: argparse.Namespace) -> None:
    with report.part("machine", 20) as part:
        cuda = args.device.startswith("cuda")
        part |= {"device": torch.cuda.get_device_name() if cuda else "cpu",
                 "torch": torch.__version__, "transformers": transformers.__version__}  # fmt: skip
        size = 512 if args.tiny else 8192
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            lm = fl.models.tiny_model("llama", dtype=dtype)
            lm.model.to(args.device)
            by_torch, _ = matmul_flops(lm, size)
            part[f"matmul_tflops_{str(dtype).removeprefix('torch.')}"] = by_torch / 1e12


def families(report: Report, names: list[str], device: str, seconds: float) -> None:
    """The largest differences from the CPU, relative to the largest number."""
    ends = time.monotonic() + seconds
    for name in names:
        with report.part(f"family {name}", ends - time.monotonic()) as part:
            if "left_out" in part:
                continue
            for dtype in (torch.float64, torch.bfloat16):
                here, there = (fl.models.tiny_model(name, dtype=dtype) for _ in range(2))
                there.model.to(device)
                key = str(dtype).removeprefix("torch.")
                part[f"logits {key}"] = apart(*map(_logits, (here, there)))
                if dtype is torch.float64:
                    part["trace"] = apart(*map(_effects, (here, there)))
                    part["rome"] = apart(*map(_change, (here, there)))


def _logits(lm: fl.LanguageModel) -> torch.Tensor:
    rows = [[5, 9, 40, 7, 8], [3, 30, 31]]
    with torch.no_grad():
        return lm.readout(lm.run(lm.frame(pad(rows, lm.device))).flatten(0, 1)).cpu()[:8]


def _effects(lm: fl.LanguageModel) -> torch.Tensor:
    config = fl.tracing.TraceConfig(samples=2, positions="last_subject")
    found = fl.causal_trace(lm, FACT, config=config).effects
    return torch.cat([torch.as_tensor(effects).flatten() for effects in found.values()])


def _change(lm: fl.LanguageModel) -> torch.Tensor:
    config = fl.editing.RomeConfig(
        layer=0, value=fl.editing.ValueConfig(steps=3),
        contexts=fl.editing.ContextConfig(groups=((1, 3),)),
    )  # fmt: skip
    (update,) = fl.rome(lm, FACT, config, background=known_keys(lm, [0])).updates
    return update.matrix(torch.float64, torch.device("cpu"))


def apart(here: torch.Tensor, there: torch.Tensor) -> float:
    """The largest difference, relative to the largest number there is."""
    here, there = (torch.nan_to_num(each.to(torch.float64)) for each in (here, there))
    return float((here - there).abs().max() / here.abs().max().clamp(min=1e-30))


# -- how fast it is -----------------------------------------------------------------------------


def measured(report: Report, name: str, args: argparse.Namespace, seconds: float) -> None:
    """Everything about one shape; each part has a share of the time, the edits the largest."""
    shape, ends = SHAPES[name], time.monotonic() + seconds
    made: list[fl.LanguageModel] = []
    with report.part(f"{name} model", seconds * 0.25) as part:
        if "left_out" in part:
            return
        gc.collect()  # the model before
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        made.append(shaped(name, args))
        part["fingerprint_s"], _ = timed(made[0], lambda: made[0].fingerprint)
        part["parameters"] = sum(p.numel() for p in made[0].model.parameters())
        part["dtype"] = str(shape.dtype).removeprefix("torch.")
    if not made:
        return
    lm, few = made[0], args.tiny
    layer = min(shape.layer, 1) if few else shape.layer
    layers = (0, 1) if few else shape.layers
    parts: list[tuple[str, Callable[[], Iterator[tuple[str, float]]]]] = [
        ("generation", lambda: generation(lm, few)),
        ("traces", lambda: traces(lm)),
        ("statistics", lambda: statistics(lm, layers, few)),
        ("rome", lambda: rome(lm, layer, few)),
        ("memit", lambda: memit(lm, layers, few)),
        ("evaluation", lambda: evaluation(lm, layer, few)),
    ]
    for i, (of, measure) in enumerate(parts):
        with report.part(f"{name} {of}", (ends - time.monotonic()) / (len(parts) - i)) as part:
            if "left_out" not in part:
                for key, value in measure():
                    part[key] = value
            part["peak_gib"] = peak_gib(lm)


def shaped(name: str, args: argparse.Namespace) -> fl.LanguageModel:
    """Random weights, made where they stay."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(SHAPES[name].dtype)
    try:
        with torch.random.fork_rng(), torch.device(args.device):
            torch.manual_seed(0)
            model = SHAPES[name].make(args.tiny)
    finally:
        torch.set_default_dtype(default)
    model.requires_grad_(False)
    return fl.LanguageModel(model.eval(), tokenizer_of(model.config.vocab_size), name)


def tokenizer_of(n_tokens: int) -> PreTrainedTokenizerFast:
    """That of the small models, with words that no text has for all the other tokens."""
    core = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = core["model"]["vocab"]
    for number in range(len(vocabulary), n_tokens):
        vocabulary[f"Ġw{number}"] = number
    made = Tokenizer.from_str(json.dumps(core))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token=EOS)


def known_keys(lm: fl.LanguageModel, layers: list[int]) -> fl.editing.Background:
    """Statistics as if all keys were alike: what a solve costs does not depend on them."""
    eye = torch.eye(lm.d_mlp, dtype=torch.float64)
    n = 100 * lm.d_mlp
    moments = [fl.stats.SecondMoment(eye, i, n, "identity", lm.fingerprint) for i in layers]
    return fl.editing.Background.of(moments)


def some_facts(count: int) -> list[fl.Fact]:
    """Well-known facts of different subjects, with the object of another of the same template."""
    facts: list[fl.Fact] = []
    for fact in {fact.subject: fact for fact in WELL_KNOWN}.values():
        others = [f.target_true for f in WELL_KNOWN
                  if f.template == fact.template and f.target_true != fact.target_true]  # fmt: skip
        if others and len(facts) < count:
            facts.append(fl.Fact(fact.template, fact.subject, others[0], fact.target_true))
    return facts


def generation(lm: fl.LanguageModel, few: bool) -> Iterator[tuple[str, float]]:
    """Tokens per second, greedy: of this library and of transformers."""
    n_rows, n_new = (2, 8) if few else (64, 50)
    prompts = [fact.prompt for fact in (some_facts(n_rows) * n_rows)[:n_rows]]
    lm.generate_batch(prompts[:2], 2)
    seconds, _ = timed(lm, lambda: lm.generate_batch(prompts, n_new))
    yield "tokens_per_s", n_rows * n_new / seconds
    rows = [lm.encode(prompt).ids[:8] for prompt in prompts]
    width = min(map(len, rows))
    ids = torch.tensor([list(row[:width]) for row in rows], device=lm.device)
    asked = {"max_new_tokens": n_new, "min_new_tokens": n_new, "do_sample": False,
             "attention_mask": torch.ones_like(ids), "pad_token_id": 0}  # fmt: skip
    with torch.no_grad():
        seconds, _ = timed(lm, lambda: lm.model.generate(ids, **asked))
    yield "transformers_tokens_per_s", n_rows * n_new / seconds


def traces(lm: fl.LanguageModel) -> Iterator[tuple[str, float]]:
    """Traces a minute, all positions and layers, ten samples; and a whole pass per state."""
    config = fl.tracing.TraceConfig()
    fl.causal_trace(lm, FACT, config=config.model_copy(update={"layers": (0,)}))
    seconds, trace = timed(lm, lambda: fl.causal_trace(lm, FACT, config=config))
    yield "per_minute", 60 / seconds
    rows = [list(lm.encode(FACT.prompt).ids)] * (config.samples + 1)
    batch = pad(rows, lm.device)

    def whole_pass() -> torch.Tensor:
        with torch.no_grad():
            return lm.model(batch.input_ids, use_cache=False).logits[:, -1]

    whole_pass()
    one, _ = timed(lm, whole_pass, repeats=3)
    n_cells = sum(int((~torch.isnan(torch.as_tensor(e))).sum()) for e in trace.effects.values())
    yield "states", n_cells
    yield "by_whole_passes_per_minute", 60 / (one * n_cells)


def statistics(
    lm: fl.LanguageModel, layers: tuple[int, ...], few: bool
) -> Iterator[tuple[str, float]]:
    """Tokens a second of one layer, and of all that MEMIT edits in one pass."""
    n_rows = 8 if few else 256
    ids = torch.randint(
        10, 400, (n_rows, 32 if few else 512), generator=torch.Generator().manual_seed(0)
    )
    corpus = Corpus(tuple(map(tuple, ids.tolist())), "random tokens")
    collect_second_moments(lm, layers[-1:], Corpus(corpus.rows[:4], "warm up"))
    for key, some in (("one_layer", layers[-1:]), ("all_layers", layers)):
        seconds, _ = timed(lm, lambda some=some: [collect_second_moments(lm, some, corpus)])
        yield f"tokens_per_s_{key}", corpus.n_tokens / seconds


def rome(lm: fl.LanguageModel, layer: int, few: bool) -> Iterator[tuple[str, float]]:
    """Edits a second, one at a time and many in a batch; and whole passes for one fact's value."""
    background, config = known_keys(lm, [layer]), fl.editing.RomeConfig(layer=layer)
    if few:
        config = config.model_copy(update={"value": fl.editing.ValueConfig(steps=2)})
    facts = some_facts(4 if few else 64)
    fl.rome(lm, facts[0], config, background=background)
    seconds, _ = timed(lm, lambda: fl.rome(lm, facts[1], config, background=background))
    yield "one_at_a_time_per_s", 1 / seconds
    many = facts[2:]
    seconds, _ = timed(lm, lambda: fl.editing.rome_each(lm, many, config, background=background))
    yield "in_a_batch_per_s", len(many) / seconds
    n_contexts = len(background.contexts(lm, config.contexts))
    step_s, _ = timed(lm, lambda: whole_step(lm, n_contexts), repeats=2)
    yield "by_whole_passes_per_s", 1 / (step_s * config.value.steps)


def whole_step(lm: fl.LanguageModel, n_contexts: int) -> torch.Tensor:
    """A step of a value as it is first thought of: all contexts, all layers, all logits."""
    row = list(lm.encode(FACT.prompt + " Rome").ids)
    batch = pad([[7] * 10 + row] * (n_contexts + 1), lm.device)
    with torch.enable_grad():
        entry = lm.embedding(batch.input_ids).detach().requires_grad_()
        logits = lm.model(inputs_embeds=entry, use_cache=False).logits
        loss = -logits[:, -2].float().log_softmax(-1)[:, row[-1]].mean()
        return torch.autograd.grad(loss, entry)[0]


def memit(lm: fl.LanguageModel, layers: tuple[int, ...], few: bool) -> Iterator[tuple[str, float]]:
    """Values a second, and seconds of what comes behind them, the solves above all."""
    background, config = known_keys(lm, list(layers)), fl.editing.MemitConfig(layers=layers)
    if few:
        config = config.model_copy(update={"value": fl.editing.ValueConfig(steps=2)})
    facts = some_facts(4 if few else 128)
    requests = [ValueRequest(fact, str(fact.target_new)) for fact in facts]
    contexts = background.contexts(lm, config.contexts)
    site = fl.hooks.Site(layers[-1], fl.hooks.Stream.BLOCK)
    values_s, _ = timed(lm, lambda: optimise_values(lm, requests, contexts, site, config.value))
    yield "values_per_s", len(facts) / values_s
    whole_s, _ = timed(lm, lambda: fl.memit(lm, facts, config, background=background))
    yield "facts_per_s", len(facts) / whole_s
    yield "behind_the_values_s", max(0.0, whole_s - values_s)


def evaluation(lm: fl.LanguageModel, layer: int, few: bool) -> Iterator[tuple[str, float]]:
    """Records an hour, ROME edits included: likelihoods alone, and with texts."""
    background, config = known_keys(lm, [layer]), fl.editing.RomeConfig(layer=layer)
    if few:
        config = config.model_copy(update={"value": fl.editing.ValueConfig(steps=2)})
    for key, n, measure in (
        ("likelihoods", 2 if few else 64, fl.evaluation.MeasureConfig(n_generated=0)),
        ("with_texts", 1 if few else 16,
         fl.evaluation.MeasureConfig(text_tokens=30) if few else fl.evaluation.MeasureConfig()),
    ):  # fmt: skip
        records = fl.load_records("builtin", limit=n)
        with tempfile.TemporaryDirectory() as folder:
            seconds, _ = timed(
                lm,
                lambda folder=folder, records=records, measure=measure: fl.evaluate(
                    lm, records, "rome", Path(folder) / "run", config=config, measure=measure,
                    background=background,
                ),
            )  # fmt: skip
        yield f"{key}_records_per_hour", math.floor(3600 * len(records) / seconds)


if __name__ == "__main__":
    main()
