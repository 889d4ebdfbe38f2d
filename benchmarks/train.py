"""How fast do MEND and KE train and edit, beside the straightforward way and beside the machine?

    python benchmarks/train.py

The straightforward way trains on one example at a time: the whole model forward for the fact and
backward into the edited blocks, the changes as matrices, and the whole changed model on the other
texts, with logits everywhere. Its loss for an example must be ours. An edit is compared with one
forward pass of the model on the same fact and one backward pass into the same matrices.

Useful operations of an example: its tokens forward and backward through the edited blocks, logits
where they are read, and the network on the tokens of the gradient (weights too: three times).
"""

import argparse
import tempfile
import time

import torch
from machine import layer_operations, matmul_flops, peak_gib, synchronise, timed
from torch.func import functional_call

import factlab as fl
from factlab.data.record_files import load_records
from factlab.editing.trained.configs import KeConfig, MendConfig, TrainConfig
from factlab.editing.trained.examples import examples_of_records
from factlab.editing.trained.gradients import OuterProducts
from factlab.editing.trained.losses import losses
from factlab.editing.trained.passages import PASSAGE_TOKENS
from factlab.editing.trained.sampling import picked
from factlab.editing.trained.states import States
from factlab.editing.trained.training import train_editor
from factlab.stats.corpus import corpus_from_model

HEADINGS = ("", "examples per second", "ratio", "GFLOP/s useful", "of torch's product")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--records", type=int, default=150)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--slow-examples", type=int, default=5, help="trained on one at a time")
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(args.model, device=args.device)
    by_torch, by_ours = matmul_flops(lm)
    print(f"{lm.name}, {lm.dtype}, {lm.device}, {torch.get_num_threads()} threads")
    print(f"large matrix product: {by_torch / 1e9:.0f} GFLOP/s by torch, "
          f"{by_ours / 1e9:.0f} GFLOP/s the way linear layers of a frozen model do it")  # fmt: skip
    text = corpus_from_model(lm, 200 * PASSAGE_TOKENS, PASSAGE_TOKENS, 0)
    records = load_records("builtin", limit=args.records)
    data = examples_of_records(lm, records, ordinary=text)
    others = load_records("builtin", offset=args.records)
    print("| " + " | ".join(HEADINGS) + " |\n|---|---:|---:|---:|---:|")
    edit_lines = []
    for name, network in (("MEND", MendConfig()), ("KE", KeConfig())):
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(max_steps=args.steps, validate_every=args.steps)
            moments: list[float] = []

            def note(label: str, *_: int, moments=moments) -> None:
                if label.startswith("training"):
                    moments.append(time.perf_counter())

            editor = train_editor(lm, data, folder, network, config, progress=note).editor
        # The last moment is behind the validation.
        step_s = (moments[-2] - moments[1]) / (len(moments) - 3)
        ours = config.examples_per_step / step_s
        slow_s, gap = straightforward(lm, editor, data, config, args.slow_examples)
        flops = useful_operations(lm, editor, data, config) * ours
        print(f"| {name}, straightforward | {1 / slow_s:.2f} | 1 | | |")
        print(f"| {name} | {ours:.1f} | {ours * slow_s:.0f} | {flops / 1e9:.0f} | "
              f"{flops / by_torch:.0%} |", flush=True)  # fmt: skip
        print(f"    losses of an example differ by {gap:.1e} at most")
        facts = [record.fact for record in editor.held_out(others, limit=32)]
        for count in (1, len(facts)):
            some = facts[:count]
            edit_s, _ = timed(lm, lambda: editor.edits(lm, some), 3)  # noqa: B023 - called at once
            pass_s, _ = timed(lm, lambda: passes(lm, editor.network, some), 3)  # noqa: B023
            edit_lines.append(
                f"| {name}, {count} facts | {1e3 * edit_s / count:.0f} | "
                f"{1e3 * pass_s / count:.0f} | {edit_s / pass_s:.2f} |"
            )
    print("\n| | ms per edit | forward and backward | ratio |\n|---|---:|---:|---:|")
    print("\n".join(edit_lines))
    print(f"peak memory {peak_gib(lm):.1f} GiB")


def passes(lm, network, facts) -> None:
    """One forward and one backward pass of the model for each fact, as transformers does it."""
    for fact in facts:
        factors(lm, network, torch.tensor([lm.encode(f"{fact.prompt} {fact.target_new}").ids]))


def factors(lm, network, ids, reads=None, wanted=None):
    """Inputs and output gradients of the edited matrices, of a fact's loss; plain hooks."""
    ids = ids.to(lm.device)
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for matrix in network.matrices:
        module = lm.model.get_submodule(matrix.weight_name.removesuffix(".weight"))

        def hook(_module, args, output, name=matrix.weight_name):
            probe = torch.zeros_like(output).requires_grad_(True)
            seen[name] = [args[0].detach(), probe]
            return output + probe

        handles.append(module.register_forward_hook(hook))
    logits = lm.model(ids, use_cache=False).logits[0].float()
    for handle in handles:
        handle.remove()
    if reads is None:
        reads, wanted = range(ids.shape[1] - 1), ids[0, 1:].tolist()
    loss = nll(logits, reads, wanted)
    grads = torch.autograd.grad(loss, [probe for _, probe in seen.values()])
    # As published, tokens without a gradient are left out.
    return {
        name: OuterProducts(inputs, grad, (grad != 0).any(-1))
        for (name, (inputs, _)), grad in zip(seen.items(), grads, strict=True)
    }


def nll(logits, reads, wanted) -> torch.Tensor:
    logprobs = logits[list(reads)].log_softmax(-1)
    return -logprobs[range(len(wanted)), list(wanted)].mean()


def straightforward(lm, editor, data, config, n_examples: int) -> tuple[float, float]:
    """Seconds of an example, and how far its loss is from ours."""
    network = editor.network
    examples = picked(data.train, 0, n_examples, config.n_unrelated, config.seed, config.n_ordinary)
    weights = dict(lm.model.named_parameters())
    found, began = [], time.perf_counter()
    with frozen_plainly(lm):
        for example in examples:
            edit = example.edit
            gradients = factors(
                lm, network, torch.tensor([edit.inputs]), edit.reads, edit.target_ids
            )
            text = lm.embedding.weight[torch.tensor(edit.ids, device=lm.device)]
            changes = network(gradients, [text])
            changed = {}
            for matrix in network.matrices:
                dense = changes[matrix.weight_name].dense()[0]
                dense = dense if matrix.layout == "out_in" else dense.T
                changed[matrix.weight_name] = weights[matrix.weight_name] + dense

            def after(reading, changed=changed):
                ids = torch.tensor([reading.inputs], device=lm.device)
                return functional_call(lm.model, changed, (ids,)).logits[0].float()

            asked = (example.edit, example.rephrased[0])
            edit_nll = sum(nll(after(text), text.reads, text.target_ids) for text in asked) / 2
            divergences = []
            for other in (*example.unrelated, *example.ordinary):
                ids = torch.tensor([other.ids], device=lm.device)
                with torch.no_grad():
                    logits = lm.model(ids, use_cache=False).logits[0].float()
                    before = logits.log_softmax(-1)[list(other.reads)]
                now = after(other).log_softmax(-1)[list(other.reads)]
                divergences.append((before.exp() * (before - now)).sum(-1).mean())
            loss = config.c_edit * edit_nll + config.c_loc * torch.stack(divergences).mean()
            loss.backward()
            found.append(float(loss.detach()))
        synchronise(lm)
        seconds = (time.perf_counter() - began) / len(examples)
    network.zero_grad()
    states = States(lm, lm.n_layers - editor.config.n_blocks)
    with lm.frozen(), torch.no_grad():
        ours = losses(lm, network, states, examples)
    expected = config.c_edit * ours.edit_nll + config.c_loc * ours.loc_kl
    return seconds, float((torch.tensor(found) - expected.cpu()).abs().max())


class frozen_plainly:  # noqa: N801 - a context
    """No gradients for the model's own weights, and nothing else changed."""

    def __init__(self, lm) -> None:
        self.flags = [(p, p.requires_grad) for p in lm.model.parameters()]

    def __enter__(self) -> None:
        for parameter, _ in self.flags:
            parameter.requires_grad_(False)

    def __exit__(self, *_) -> None:
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)


def useful_operations(lm, editor, data, config) -> float:
    """Of an example, on average over a few steps."""
    network = editor.network
    readout = 2 * lm.d_model * lm.embedding.weight.shape[0]
    n_weights = sum(p.numel() for n, p in network.named_parameters() if p.dim() > 1)
    shared = len(network.matrices) / max(1, len(getattr(network, "networks", network.matrices)))
    total = 0.0
    examples = picked(data.train, 0, 50, config.n_unrelated, config.seed, config.n_ordinary)
    for example in examples:
        edit, others = example.edit, (*example.unrelated, *example.ordinary)
        texts = [edit, *example.texts]  # the edit is written, and asked
        tokens = sum(len(text.ids) for text in texts)
        reads = sum(len(text.reads) for text in texts)
        through = editor.config.n_blocks * layer_operations(lm, tokens / len(texts))
        total += 2 * (tokens * through + reads * readout)
        total += readout * sum(len(text.reads) for text in others)  # the unedited model's
        # MEND runs on every token of the gradient, KE once for every fact.
        runs = len(edit.ids) if hasattr(network, "networks") else 1
        total += 3 * 2 * n_weights * shared * runs
    return total / len(examples)


if __name__ == "__main__":
    main()
