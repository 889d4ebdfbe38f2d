"""Which rungs of the ladder a model reaches, from what was found when it was tried out."""

from typing import TYPE_CHECKING

from factlab.hooks import Site, Stream
from factlab.models.abilities import Abilities, Rung, RungName
from factlab.models.check import Examined
from factlab.models.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Sequence


def abilities_of(layers: Layers, found: Examined) -> Abilities:
    """What can be done with a model.

    Args:
        layers: its layers.
        found: what was found when it was tried out.
    """
    n = len(layers)
    why = "; ".join(found.lacking) or "its layers were not found"
    dense = tuple(i for i in range(n) if layers.is_dense(i))
    parts = tuple(i for i in range(n) if _has_part(layers, i))
    rungs: dict[RungName, Rung] = {
        "ask": Rung(True),
        "trace": Rung(True, layers=tuple(range(n))) if n else Rung(False, why),
    }
    if not n:
        below = Rung(False, "its layers cannot be told apart")
        names: Sequence[RungName] = (
            "windows", "severed", "neurons", "closed_form", "gradient", "rows",
        )  # fmt: skip
        rungs |= dict.fromkeys(names, below)
        return Abilities(found.anatomy.family, found.engine.name, rungs)
    windows = (
        Rung(True, _lacking(layers), parts)
        if parts
        else Rung(False, f"no layer has a mixer or an MLP of its own: {why}")
    )
    plain = (
        Rung(True, "" if len(dense) == n else _not_dense(layers), dense)
        if dense
        else Rung(False, _not_dense(layers))
    )
    neurons = (
        Rung(True, layers=dense)
        if len(dense) == n and len({layers.d_mlp(i) for i in dense}) == 1
        else Rung(False, _not_dense(layers) or "its MLPs differ in width")
    )
    rungs |= {
        "windows": windows,
        "severed": windows,
        "neurons": neurons,
        "closed_form": _closed_form(layers),
        "gradient": plain,
        "rows": plain,
    }
    return Abilities(found.anatomy.family, found.engine.name, rungs)


def _closed_form(layers: Layers) -> Rung:
    """Layers that are one linear memory: a plain matrix, or experts that can be looked into."""
    able = tuple(i for i in range(len(layers)) if layers.is_memory(i))
    why = "" if len(able) == len(layers) else _no_memory(layers)
    return Rung(bool(able), why, able or None)


def _has_part(layers: Layers, layer: int) -> bool:
    return any(layers.has(Site(layer, stream)) for stream in (Stream.ATTN, Stream.MLP))


def _lacking(layers: Layers) -> str:
    """Which layers lack a mixer or an MLP, in words."""
    said: list[str] = []
    for stream, what in ((Stream.ATTN, "mixer"), (Stream.MLP, "MLP")):
        without = [i for i in range(len(layers)) if not layers.has(Site(i, stream))]
        if without:
            which = "no layer has" if len(without) == len(layers) else f"{_listed(without)} lack"
            said.append(f"{which} {'a' if what == 'mixer' else 'an'} {what} of its own")
    return "; ".join(said)


def _not_dense(layers: Layers) -> str:
    """Why some layers cannot be edited as one MLP, in words."""
    return _reasons(layers, [i for i in range(len(layers)) if not layers.is_dense(i)])


def _no_memory(layers: Layers) -> str:
    """Why some layers are no linear memory at all, in words."""
    return _reasons(layers, [i for i in range(len(layers)) if not layers.is_memory(i)])


def _reasons(layers: Layers, which: list[int]) -> str:
    kinds: dict[str, list[int]] = {}
    for index, parts in enumerate(layers):
        if index not in which:
            continue
        if parts.mlp is None:
            kinds.setdefault("no MLP of its own", []).append(index)
        elif parts.mlp.experts is not None:
            unread = f", but {parts.mlp.unread}" if parts.mlp.unread else ""
            kinds.setdefault(f"a mixture of experts{unread}", []).append(index)
        else:
            kinds.setdefault("an MLP that no plain matrix of floats writes", []).append(index)
    return "; ".join(f"{_listed(some)} have {what}" for what, some in kinds.items())


def _listed(layers: list[int]) -> str:
    some = ", ".join(map(str, layers[:4]))
    return f"layers {some}{' and others' if len(layers) > 4 else ''}"
