"""How fast are edits, beside the straightforward way and beside the machine?

    python benchmarks/edit.py                  # the bundled model
    python benchmarks/edit.py --shape gpt2-xl  # random weights in the shape of a large model
    python benchmarks/edit.py --shape gpt-j --facts 1000 --skip-slow

The straightforward way optimises one value at a time: all contexts and the essence prompt padded
into one batch, full forward and backward passes through every layer and token, logits everywhere.
"The same objective" means its contexts, steps and optimiser (`published()`), so losses must agree;
"our defaults" are those of the library.

Useful operations of a step are those that δ can change, forward and backward (with respect to
states only): Σ over rows of the tokens from the lookup token on, times the layers from the edited
one on, times the operations of a layer, and a readout for every target token.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from machine import layer_operations, matmul_flops, peak_gib, timed
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

import factlab as fl
from factlab.data.well_known import WELL_KNOWN
from factlab.editing.closed_form.layerwise import _write
from factlab.editing.closed_form.lookup import prompt_rows, target_rows
from factlab.editing.closed_form.memit import least_squares_duals
from factlab.editing.closed_form.value import DEFAULT_CLAMP, OptimisedValue, optimise_values
from factlab.editing.closed_form.value_batch import prepare_requests
from factlab.editing.closed_form.waiting import WaitingFacts
from factlab.editing.configs import ValueConfig
from factlab.editing.contexts import context_weights
from factlab.editing.metric import OrdinaryKeys
from factlab.editing.requests import ValueRequest
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import Corpus
from factlab.tokens import pad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=["gpt2-xl", "gpt-j"], help="random weights of this shape"
    )
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--slow-facts", type=int, default=2, help="of the straightforward way")
    parser.add_argument("--skip-slow", action="store_true")
    parser.add_argument("--only", choices=["rome", "memit"], help="half of it")
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = shaped(args) if args.shape else fl.load(device=args.device, dtype=args.dtype)
    by_torch, by_ours = matmul_flops(lm)
    print(f"{lm.name}, {args.dtype}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch, "
          f"{by_ours / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")  # fmt: skip
    requests = [ValueRequest(f, str(f.target_new)) for f in some_facts(args.facts)]
    layer, layers = (17, range(13, 18)) if args.shape == "gpt2-xl" else (5, range(3, 9))
    if not args.shape:
        layer, layers = 3, range(4)

    if args.only != "memit":
        print("\nROME, the value of one fact")
        site, old = fl.hooks.Site(layer, fl.hooks.Stream.MLP), fl.editing.RomeConfig.published()
        compare(lm, args, requests, site, old, fl.editing.RomeConfig(), by_torch, by_ours)
    if args.only != "rome":
        print("\nMEMIT, the value of one fact")
        six = fl.editing.ContextConfig(groups=((5, 10),))
        old = fl.editing.MemitConfig(value=ValueConfig.published(), contexts=six)
        site, new = fl.hooks.Site(layers[-1], fl.hooks.Stream.BLOCK), fl.editing.MemitConfig()
        compare(lm, args, requests, site, old, new, by_torch, by_ours)
        spread(lm, requests, layers, new)
    statistics_of_layers(lm, layers)
    print(f"\npeak memory {peak_gib(lm):.1f} GiB")


def shaped(args: argparse.Namespace) -> fl.LanguageModel:
    """A model of a published shape with random weights, and the bundled model's tokenizer."""
    tokenizer: AutoTokenizer = fl.load(device="cpu").tokenizer
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device(device):
        if args.shape == "gpt2-xl":
            config = GPT2Config(n_embd=1600, n_layer=48, n_head=25, vocab_size=50257)
            model = GPT2LMHeadModel(config)
        else:
            model = GPTJForCausalLM(GPTJConfig(vocab_size=50400))
    model = model.to(getattr(torch, args.dtype))
    return fl.LanguageModel(model, tokenizer, f"random {args.shape} shape")


def some_facts(count: int) -> list[fl.Fact]:
    """Well-known facts with the object of another fact of the same template."""
    facts: list[fl.Fact] = []
    for i in range(count):
        fact = WELL_KNOWN[i % len(WELL_KNOWN)]
        same = [f.target_true for f in WELL_KNOWN
                if f.template == fact.template and f.target_true != fact.target_true]  # fmt: skip
        new = same[i // len(WELL_KNOWN) % len(same)]
        facts.append(fl.Fact(fact.template, fact.subject, new, fact.target_true))
    return facts


def compare(lm, args, requests, site, old, new, by_torch: float, by_ours: float) -> None:
    background = fl.editing.Background(values=None)
    contexts = background.contexts(lm, old.contexts)
    few = background.contexts(lm, new.contexts)
    optimise_values(lm, requests[:1], few, site, new.value.model_copy(update={"steps": 2}))
    print(
        "| | facts | s per fact | ratio | steps | GFLOP/s useful | of torch's product | of ours |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    slow_s, slow = float("nan"), []
    if not args.skip_slow:
        slow_s, slow = timed(lm, lambda: [
            straightforward(lm, request, contexts, site, old.value)
            for request in requests[: args.slow_facts]
        ])  # fmt: skip
        slow_s /= len(slow)
        steps = statistics.mean(map(len, slow))
        print(f"| straightforward | {len(slow)} | {slow_s:.2f} | 1 | {steps:.1f} | | | |")
    counts = sorted({1, 8, len(requests)})
    runs = [("same objective", old.value, contexts, n) for n in counts]
    runs += [("our defaults", new.value, few, n) for n in counts]
    for name, config, texts, count in runs:
        some = requests[:count]
        n = len(some)
        seconds, values = timed(lm, partial(optimise_values, lm, some, texts, site, config))
        flops = (
            sum(
                useful_operations(lm, request, value, texts, site)
                for request, value in zip(requests, values, strict=False)
            )
            / seconds
        )
        steps = statistics.mean(len(value.history) for value in values)
        print(f"| {name} | {n} | {seconds / n:.2f} | {slow_s / (seconds / n):.1f} | {steps:.1f} | "
              f"{flops / 1e9:.0f} | {flops / by_torch:.0%} | {flops / by_ours:.0%} |",
              flush=True)  # fmt: skip
        if name == "same objective":
            gaps = [abs(a[-1] - b.history[-1]["loss"]) for a, b in zip(slow, values, strict=False)]
            if gaps:
                print(f"largest difference of final losses {max(gaps):.1e}")


def useful_operations(
    lm, request: ValueRequest, value: OptimisedValue, contexts: list[str], site: fl.hooks.Site
) -> float:
    (prepared,) = prepare_requests(lm, [request], contexts)
    rows = prepared.rows
    layers = lm.n_layers - site.layer - (site.stream is fl.hooks.Stream.BLOCK)
    tokens = sum(len(row.ids) - row.lookup - (row is not rows[-1]) for row in rows)
    reads = sum(len(row.ids) - row.n_prompt for row in rows[:-1]) + 1
    width = statistics.mean(len(row.ids) for row in rows)
    forward = tokens * layers * layer_operations(lm, 2 * width)
    forward += reads * 2 * lm.d_model * lm.embedding.weight.shape[0]
    return 2 * forward * len(value.history)


def straightforward(
    lm, request: ValueRequest, contexts: list[str], site: fl.hooks.Site, config: ValueConfig
) -> list[float]:
    """The losses; plain hooks, no reuse of anything."""
    rows = target_rows(lm, request.fact, contexts, request.target)
    (essence,) = prompt_rows(lm, fl.Fact("{} is a", request.fact.subject), [""])
    every = [*rows, essence]
    inputs = [*(row.ids[:-1] for row in rows), essence.ids]
    batch = pad(inputs, lm.device)
    numbers = torch.arange(len(every), device=lm.device)
    places = torch.tensor([row.lookup for row in every], device=lm.device)
    read = places[-1] if config.kl_position == "subject_end" else len(essence.ids) - 1
    delta = torch.zeros(lm.d_model, device=lm.device, requires_grad=True)
    initial = None

    def add(_module, _args, output):
        nonlocal initial
        state = output[0] if isinstance(output, tuple) else output
        if initial is None:
            initial = state[0, places[0]].detach().float().norm()
        moved = state.clone()
        moved[numbers, places] += delta.to(state)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    flags = [(p, p.requires_grad) for p in lm.model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    handle = lm.module(site).register_forward_hook(add)
    optimiser = torch.optim.Adam([delta], lr=config.learning_rate)
    losses: list[float] = []
    reference = None
    for step in range(config.steps):
        logits = lm.model(batch.input_ids, attention_mask=batch.is_token.long()).logits.float()
        logprobs = logits.log_softmax(-1)
        if reference is None:
            reference = logprobs[-1, read].detach()
        nlls = []
        for number, row in enumerate(rows):
            target = torch.tensor(row.ids[row.n_prompt :], device=lm.device)
            at = logprobs[number, row.n_prompt - 1 : row.n_prompt - 1 + len(target)]
            nlls.append(-at.gather(1, target[:, None]).mean())
        edited = logprobs[-1, read]
        kl = (edited.exp() * (edited - reference)).sum()
        loss = torch.stack(nlls).mean() + config.kl_factor * kl
        loss = loss + config.weight_decay * delta.norm() / initial**2
        losses.append(float(loss.detach()))
        if loss < config.stop_loss or step == config.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            limit = (config.clamp_factor or DEFAULT_CLAMP) * initial
            delta *= (limit / delta.norm().clamp(min=1e-12)).clamp(max=1)
    handle.remove()
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return losses


def spread(lm, requests: list[ValueRequest], layers: range, config: fl.editing.MemitConfig) -> None:
    """MEMIT after its values: keys, and how long the solves take."""
    background = fl.editing.Background(values=None)
    contexts = background.contexts(lm, config.contexts)
    solving = 0.0
    if lm.name.startswith("random"):
        eye = torch.eye(lm.d_mlp, dtype=torch.float64)
        moments = {i: fl.stats.SecondMoment(eye, i, 1, "identity", lm.fingerprint) for i in layers}
    else:
        moments = background.second_moments(lm, list(layers), config.stats)

    def solve(layer, keys):
        nonlocal solving
        began = time.perf_counter()
        metric = OrdinaryKeys(moments[layer], config.second_moment_weight)
        found = least_squares_duals(keys, metric)
        solving += time.perf_counter() - began
        return found

    site = fl.hooks.Site(layers[-1], fl.hooks.Stream.BLOCK)
    values_s, values = timed(
        lm, lambda: optimise_values(lm, requests, contexts, site, config.value)
    )

    def write():
        facts = [request.fact for request in requests]
        weights = context_weights(config.contexts, len(contexts))
        with torch.no_grad(), lm.frozen():
            rows = WaitingFacts(lm, facts, contexts, weights, layers[0])
        deltas = torch.stack([value.delta.double() for value in values])
        return _write(lm, rows, deltas, list(layers), solve)

    write_s, _ = timed(lm, write)
    total = values_s + write_s
    print(f"\nMEMIT of {len(requests)} facts: values {values_s:.1f} s, spreading {write_s:.1f} s, "
          f"of which solving {solving:.2f} s ({solving / total:.1%} of the whole); "
          f"{len(requests) / total:.1f} facts per second")  # fmt: skip


def statistics_of_layers(lm, layers: range) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (48, 128), generator=generator)
    corpus = Corpus(tuple(tuple(row) for row in ids.tolist()), "random tokens")
    last = layers[-1]
    several = list(range(max(0, last - 4), last + 1))
    collect_second_moments(lm, [last], Corpus(corpus.rows[:4], "warm up"))
    one_s, _ = timed(lm, lambda: [collect_second_moments(lm, [last], corpus)])
    five_s, _ = timed(lm, lambda: [collect_second_moments(lm, several, corpus)])
    print(f"statistics of {corpus.n_tokens} tokens: layer {last} {one_s:.1f} s, layers {several} "
          f"in one pass {five_s:.1f} s, {five_s / one_s:.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
