"""Which rungs of the ladder a model reaches, from what was found when it was tried out."""

from collections.abc import Sequence

from factlab.hooks import Site, Stream
from factlab.models.abilities import Abilities, Rung, RungName
from factlab.models.check import Examined
from factlab.models.layers import Layers
from factlab.models.stored import is_spread
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
        return Abilities(layers.name, found.engine.name, rungs)
    windows = (
        Rung(True, _lacking(layers), parts)
        if parts
        else Rung(False, f"no layer has a mixer or an MLP of its own: {why}")
    )
    memories = tuple(i for i in range(n) if layers.is_memory(i))
    if not found.engine.n_layers:
        edited = tuned = Rung(False, "states cannot be put in between its layers")
    else:
        edited = _edited(layers, memories, found.ungraded)
        tuned = _tuned(layers, _edited(layers, dense, found.ungraded))
    rungs |= {
        "windows": windows,
        "severed": windows,
        "neurons": _neurons(layers, dense, edited),
        "closed_form": edited,
        "gradient": tuned,
        "rows": edited,
    }
    return Abilities(layers.name, found.engine.name, rungs)


def _edited(layers: Layers, able: tuple[int, ...], ungraded: str) -> Rung:
    """Whether edits of some layers can be computed and put on: written, or carried beside."""
    others = [i for i in range(len(layers)) if i not in able]
    said = [_reasons(layers, others)] if others else []
    if not able:
        return Rung(False, said[0])
    if ungraded:
        return Rung(False, ungraded)
    if carried := [i for i in able if layers.is_dense(i) and not layers.is_plain(i)]:
        said.append(
            "MLP matrix that is no plain tensor of floats (quantised, offloaded or of its own "
            f"class) {_where(carried, len(layers))}: edits of it are carried beside it"
        )
    return Rung(True, "; ".join(said), able)


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
        "write (they are quantised, offloaded or of a class of their own); fine-tune the "
        "unquantised checkpoint, and put that edit on with force or as an adapter (Edit.to_peft)",
    )


def _neurons(layers: Layers, dense: tuple[int, ...], edited: Rung) -> Rung:
    """Whether neurons of all layers can be told from each other: by one width of all MLPs."""
    others = [i for i in range(len(layers)) if i not in dense]
    if others:
        return Rung(False, _reasons(layers, others))
    if len({layers.d_mlp(i) for i in dense}) > 1:
        return Rung(False, "its MLPs differ in width")
    return edited


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


def _reasons(layers: Layers, which: Sequence[int]) -> str:
    """Why some layers are not what is edited, in words."""
    kinds: dict[str, list[int]] = {}
    for index in which:
        mlp = layers.anatomy.parts[index].mlp
        if mlp is None:
            what = "no MLP of its own"
        elif mlp.experts is not None:
            what = f"mixture of experts{f', but {mlp.unread},' if mlp.unread else ''}"
        elif any(map(is_spread, layers.layer(index).parameters())):
            what = "MLP in pieces, one for each process,"
        else:
            what = "MLP that no plain matrix of floats writes"
        kinds.setdefault(what, []).append(index)
    return "; ".join(f"{what} {_where(some, len(layers))}" for what, some in kinds.items())


def _where(layers: Sequence[int], n: int) -> str:
    if len(layers) == n:
        return "in all layers"
    return f"in layer{'' if len(layers) == 1 else 's'} {listed_ranges(layers)}"
