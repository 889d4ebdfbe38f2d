"""Every public name, with what it stands for."""

import types

import factlab as fl

NAMESPACES = ("data", "editing", "evaluation", "human", "models", "neurons", "stats", "tracing")


def public_names() -> dict[str, object]:
    """By name; those of a namespace once, though the top has some of them too."""
    spaces = [fl, *(getattr(fl, name) for name in NAMESPACES), fl.hooks]
    listed = [
        (space, getattr(space, "__all__", ("Site", "Stream", "intervene", "record")))
        for space in spaces
    ]
    every = {name: getattr(space, name) for space, names in listed for name in names}
    return {name: one for name, one in every.items() if not isinstance(one, types.ModuleType)}
