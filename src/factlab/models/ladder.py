"""Which rungs of the ladder a model reaches, from what was found when it was tried out."""

from collections.abc import Sequence

from factlab.hooks import Site, Stream
from factlab.models.abilities import Abilities, Rung, RungName
from factlab.models.check import Examined
from factlab.models.layers import Layers
from factlab.words import listed_ranges


def abilities_of(layers: Layers, found: Examined) -> Abilities:
    """What can be done with a model.

    Args:
        layers: its layers.
        found: what was found when it was tried out.
    """
    n = len(layers)
    why = "; ".join(found.lacking) or "its layers were not found"
    run = tuple(i for i in range(n) if i not in found.anatomy.skipped)
    dense = tuple(i for i in range(n) if layers.is_dense(i))
    parts = tuple(i for i in range(n) if _has_part(layers, i))
    rungs: dict[RungName, Rung] = {
        "ask": Rung(True),
        "trace": Rung(True, layers=run) if n else Rung(False, why),
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
    edited = _edited(layers, dense, found.ungraded)
    neurons = (
        edited
        if not edited.can or (len(dense) == n and len({layers.d_mlp(i) for i in dense}) == 1)
        else Rung(False, _not_dense(layers) or "its MLPs differ in width")
    )
    rungs |= {
        "windows": windows,
        "severed": windows,
        "neurons": neurons,
        "closed_form": edited,
        "gradient": _tuned(layers, edited),
        "rows": edited,
    }
    return Abilities(found.anatomy.family, found.engine.name, rungs)


def _edited(layers: Layers, dense: tuple[int, ...], ungraded: str) -> Rung:
    """Whether edits can be computed and put on: written into matrices, or carried beside them."""
    if not dense:
        return Rung(False, _not_dense(layers))
    if ungraded:
        return Rung(False, ungraded)
    said = [] if len(dense) == len(layers) else [_not_dense(layers)]
    if carried := [i for i in dense if not layers.is_plain(i)]:
        said.append(
            "MLP matrix that is no plain tensor of floats (quantised, offloaded or of a class of its "
            f"own) {_where(carried, len(layers))}: edits of it are carried beside it"
        )
    return Rung(True, "; ".join(said), dense)


def _tuned(layers: Layers, edited: Rung) -> Rung:
    """Whether matrices can be changed by gradient descent: those that can be written."""
    plain = tuple(i for i in edited.layers or () if layers.is_plain(i))
    if not edited.can or plain == edited.layers:
        return edited
    if plain:
        return Rung(True, edited.why, plain)
    return Rung(
        False,
        "no layer has an MLP matrix that is a plain tensor of floats, which gradient descent could "
        "write (they are quantised, offloaded or of a class of their own)",
    )


def _has_part(layers: Layers, layer: int) -> bool:
    return any(layers.has(Site(layer, stream)) for stream in (Stream.ATTN, Stream.MLP))


def _lacking(layers: Layers) -> str:
    """Which layers lack a mixer or an MLP, in words."""
    said: list[str] = []
    for stream, what in ((Stream.ATTN, "mixer"), (Stream.MLP, "MLP")):
        without = [i for i in range(len(layers)) if not layers.has(Site(i, stream))]
        if without:
            said.append(f"no {what} of its own {_where(without, len(layers))}")
    return "; ".join(said)


def _not_dense(layers: Layers) -> str:
    """Why some layers cannot be edited as one MLP, in words."""
    kinds: dict[str, list[int]] = {}
    for index, parts in enumerate(layers):
        if layers.is_dense(index):
            continue
        if parts.mlp is None:
            kinds.setdefault("no MLP of its own", []).append(index)
        elif parts.mlp.experts is not None:
            kinds.setdefault("mixture of experts", []).append(index)
        else:
            kinds.setdefault("MLP that no plain matrix of floats writes", []).append(index)
    return "; ".join(f"{what} {_where(which, len(layers))}" for what, which in kinds.items())


def _where(layers: Sequence[int], n: int) -> str:
    if len(layers) == n:
        return "in any layer"
    return f"in layer{'' if len(layers) == 1 else 's'} {listed_ranges(layers)}"
