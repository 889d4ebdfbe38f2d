"""Causal tracing the straightforward way: one full forward pass per cell, plain torch hooks.

Written from the paper's section 2.1 and independent of the library's hooks and replay: rows are
1 clean and S corrupted ones, and a restored state is copied from row 0 while the pass runs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def slow_effects(
    model: nn.Module,
    embedding: nn.Module,
    modules: dict[str, list[nn.Module]],
    ids: list[int],
    span: tuple[int, int],
    noise: Tensor,
    window: int,
    positions: list[int] | None = None,
    layers: list[int] | None = None,
) -> tuple[dict[str, Tensor], float, float]:
    """Effects of every cell (NaN where not asked for), the clean and the corrupted probability.

    `modules[kind][layer]` is the module whose output is the state.
    """
    samples, n_layers = len(noise), len(modules["block"])
    rows = torch.tensor([ids] * (1 + samples))

    def corrupt(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[1:, span[0] : span[1]] += noise.to(out.dtype)
        return out

    def restore(position: int) -> Callable[..., object]:
        def hook(_module: nn.Module, _args: object, out: object) -> object:
            state = (out[0] if isinstance(out, tuple) else out).clone()
            if state.ndim == 2:  # OPT
                flat = state.view(1 + samples, -1, state.shape[-1])
                flat[1:, position] = flat[0, position]
            else:
                state[1:, position] = state[0, position]
            return (state, *out[1:]) if isinstance(out, tuple) else state

        return hook

    def probs(restored: list[nn.Module], position: int) -> Tensor:
        handles = [embedding.register_forward_hook(corrupt)]
        handles += [m.register_forward_hook(restore(position)) for m in restored]
        try:
            return model(rows).logits[:, -1].double().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    base = probs([], 0)
    answer = int(base[0].argmax())
    corrupted = float(base[1:, answer].mean())
    effects = {k: torch.full((len(ids), n_layers), torch.nan) for k in modules}
    for kind, by_layer in modules.items():
        for position in range(len(ids)) if positions is None else positions:
            for layer in range(n_layers) if layers is None else layers:
                first = layer if kind == "block" else max(0, layer - window // 2)
                stop = layer + 1 if kind == "block" else layer - window // 2 + window
                restored = by_layer[first : min(stop, n_layers)]
                effects[kind][position, layer] = float(
                    probs(restored, position)[1:, answer].mean() - corrupted
                )
    return effects, float(base[0, answer]), corrupted


def slow_severed(
    model: nn.Module,
    embedding: nn.Module,
    modules: dict[str, list[nn.Module]],
    ids: list[int],
    span: tuple[int, int],
    noise: Tensor,
    severed: str,
    position: int,
    second_noise: Tensor | None = None,
) -> Tensor:
    """Effects by layer of a restored hidden state at one position, a path of that token cut.

    Two passes per cell, after the paper's section 2.2: the first notes what the severed modules put
    out in the corrupted run, the second writes that back wherever the token passes them, in all
    layers, while the hidden state is restored. The second pass may have noise of its own.
    """
    passes = [noise, noise if second_noise is None else second_noise]
    rows = torch.tensor([ids] * (1 + len(noise)))
    noted: dict[nn.Module, Tensor] = {}

    def fold(out: object) -> Tensor:
        """Rows, positions and width last: of Gemma 3n several states stand in front of them."""
        state = out[0] if isinstance(out, tuple) else out
        return state.view(*state.shape[:-3], len(rows), len(ids), state.shape[-1])

    def corrupt(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[1:, span[0] : span[1]] += passes[0].to(out.dtype)
        return out

    def note(module: nn.Module, _args: object, out: object) -> None:
        noted[module] = fold(out)[..., position, :].clone()

    def hold(module: nn.Module, _args: object, out: object) -> object:
        state = fold(out).clone()
        state[1:, position] = noted[module][1:]
        state = state.view((out[0] if isinstance(out, tuple) else out).shape)
        return (state, *out[1:]) if isinstance(out, tuple) else state

    def restore(_module: nn.Module, _args: object, out: object) -> object:
        state = fold(out).clone()
        state[..., 1:, position, :] = state[..., :1, position, :]
        return (state, *out[1:]) if isinstance(out, tuple) else state

    def probs(hooks: list[tuple[nn.Module, Callable[..., object]]]) -> Tensor:
        handles = [m.register_forward_hook(h) for m, h in [(embedding, corrupt), *hooks]]
        try:
            return model(rows).logits[:, -1].double().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    base = probs([(module, note) for module in modules[severed]])
    answer = int(base[0].argmax())
    effects = []
    del passes[0]
    held = [(module, hold) for module in modules[severed]]
    for block in modules["block"]:
        restored = probs([*held, (block, restore)])
        effects.append(restored[1:, answer].mean() - base[1:, answer].mean())
    return torch.stack(effects)


def trace_modules(lm) -> dict[str, list[nn.Module]]:
    """The modules by kind, found by path; of the layers that have them."""
    anatomy = lm.layers.anatomy
    layers = list(lm.model.get_submodule(anatomy.layers))
    pairs = list(zip(layers, anatomy.parts, strict=True))
    return {
        "block": layers,
        "mlp": [layer.get_submodule(p.mlp.output) for layer, p in pairs if p.mlp is not None],
        "attn": [layer.get_submodule(p.mixer.output) for layer, p in pairs if p.mixer is not None],
    }
