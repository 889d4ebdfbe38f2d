"""How fast are neuron attributions, beside the straightforward way and beside the machine?

    python benchmarks/neurons.py

The straightforward way does one layer and one step at a time: a whole forward pass with logits
everywhere, and a backward pass down to the scaled neurons. Every layer costs it about the same, so
it does some of them, and its time is scaled up. "Same sum" is the paper's 20 steps to the right,
"our defaults" are ten Gauss-Legendre nodes and more where a layer's attributions do not add up.

Useful operations are those that scaling the neurons of a layer can change, forward and backward:
for each step one token through the layers from its own up, and a readout.
"""

import argparse
import statistics
from functools import partial

import torch
from machine import layer_operations, matmul_flops, peak_gib, timed

import factlab as fl
from factlab.data.well_known import WELL_KNOWN


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--slow-layers", type=int, default=3, help="of the straightforward way")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(args.model, device=args.device, dtype=args.dtype)
    by_torch, by_ours = matmul_flops(lm)
    print(f"{lm.name}, {args.dtype}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch, "
          f"{by_ours / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")  # fmt: skip
    facts = WELL_KNOWN[: args.facts]
    published = fl.neurons.NeuronConfig.published()
    first = fl.attribute_neurons(lm, facts[0], config=published)  # and warm up

    layers = range(0, lm.n_layers, max(1, lm.n_layers // args.slow_layers))
    some_s, slow = timed(
        lm,
        lambda: {layer: straightforward(lm, first, layer, published.steps) for layer in layers},
    )
    slow_s = some_s / len(layers) * lm.n_layers
    gap = max(
        float((found - first.attributions[layer]).abs().max()) for layer, found in slow.items()
    )
    print("| | facts | s per fact | ratio | GFLOP/s useful | of torch's product | of ours |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| straightforward | 1 | {slow_s:.1f} | 1 | | | |")
    for name, config in (("same sum", published), ("our defaults", fl.neurons.NeuronConfig())):
        for count in sorted({1, len(facts)}):
            run = partial(fl.neurons.attribute_neurons_each, lm, facts[:count], config=config)
            seconds, found = timed(lm, run, args.repeats)
            flops = sum(useful_operations(lm, one) for one in found) / seconds
            print(f"| {name} | {count} | {seconds / count:.2f} | {slow_s / seconds * count:.0f} | "
                  f"{flops / 1e9:.0f} | {flops / by_torch:.0%} | {flops / by_ours:.0%} |",
                  flush=True)  # fmt: skip
            gaps = [float(one.gaps.abs().max()) for one in found]
            print(f"    sums of attributions off by {statistics.median(gaps):.1e} (median of "
                  f"facts' worst layers)")  # fmt: skip
    print(f"largest difference from the straightforward way {gap:.1e}, of attributions up to "
          f"{first.strongest:.2g}\npeak memory {peak_gib(lm):.1f} GiB")  # fmt: skip


def useful_operations(lm, found: fl.neurons.NeuronAttribution) -> float:
    """Forward and backward, of the steps that each layer took in the end."""
    total = 0.0
    for layer, steps in enumerate(found.steps.tolist()):
        through = (lm.n_layers - layer) * layer_operations(lm, 2 * len(found.prompt_ids))
        total += steps * 2 * (through + 2 * lm.d_model * lm.embedding.weight.shape[0])
    return total


def straightforward(
    lm, found: fl.neurons.NeuronAttribution, layer: int, steps: int
) -> torch.Tensor:
    """Attributions of one layer; plain hooks, no reuse of anything."""
    ids = torch.tensor([found.prompt_ids], device=lm.device)
    projection = lm.module(fl.hooks.Site(layer, fl.hooks.Stream.MLP_HIDDEN))
    flags = [(p, p.requires_grad) for p in lm.model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    total = torch.zeros(lm.d_mlp, device=lm.device)
    for k in range(steps):
        seen: list[torch.Tensor] = []

        def scale(_module, args, share=(k + 1) / steps, seen=seen):
            neurons = args[0][:, -1].detach()
            scaled = (share * neurons).requires_grad_(True)
            seen += [neurons, scaled]
            return (torch.cat([args[0][:, :-1], scaled[:, None]], dim=1),)

        handle = projection.register_forward_pre_hook(scale)
        logits = lm.model(ids, use_cache=False).logits[0, -1].float()
        handle.remove()
        neurons, scaled = seen
        (gradient,) = torch.autograd.grad(logits.softmax(-1)[found.target_ids[0]], scaled)
        total += (neurons * gradient)[0] / steps
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return total.cpu()


if __name__ == "__main__":
    main()
