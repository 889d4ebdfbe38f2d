"""The editing methods by name.

Packages add theirs by an entry point of the group `factlab.methods` whose value is a `Method`.
Names, sentences and settings are at hand without PyTorch; a built-in method's own module is
imported when it is first used.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any

from factlab.editing.configs import (
    AlphaEditConfig,
    EmmetConfig,
    FineTuneConfig,
    KnConfig,
    MemitConfig,
    MethodConfig,
    RomeConfig,
)
from factlab.editing.in_context_config import InContextConfig
from factlab.editing.method import Method
from factlab.editing.trained.configs import KINDS
from factlab.editing.ultraedit_config import UltraEditConfig
from factlab.errors import InvalidRequestError, nearest
from factlab.models.abilities import RungName

_GROUP = "factlab.methods"


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A function of a module that is imported when it is first called.

    Attributes:
        module: inside `factlab.editing`.
        path: of the function in it.
    """

    module: str
    path: str

    def __call__(self, *args: Any) -> Any:
        return attrgetter(self.path)(import_module(f"factlab.editing.{self.module}"))(*args)


def _built_in(
    name: str,
    about: str,
    config: type[MethodConfig],
    home: str,
    settles: bool = True,
    needs: RungName = "closed_form",
    needs_subject: bool = True,
) -> Method:
    """A method whose functions are attributes of a module, or of an object in it."""
    module, _, owner = home.partition(":")
    settle, compute, together = (
        _Lazy(module, f"{owner}.{function}".lstrip("."))
        for function in ("settle", "compute", "compute_together")
    )
    return Method(
        name, about, config, compute, together,
        settle if settles else None, needs=needs, needs_subject=needs_subject,
    )  # fmt: skip


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _built_in("rome", "Rank-one update of one MLP (ROME).", RomeConfig,
                  "closed_form.rome"),
        _built_in("memit", "Least squares over several MLPs (MEMIT).", MemitConfig,
                  "closed_form.memit:MEMIT"),
        _built_in("emmet", "ROME's constraint for many facts (EMMET).", EmmetConfig,
                  "closed_form.emmet:EMMET"),
        _built_in("alphaedit", "MEMIT in the null space of ordinary keys (AlphaEdit).",
                  AlphaEditConfig, "closed_form.alphaedit:ALPHAEDIT"),
        _built_in("kn", "Values of knowledge neurons overwritten (KN).", KnConfig,
                  "knowledge_neurons", settles=False, needs="neurons", needs_subject=False),
        _built_in("ft", "Fine-tuning of one MLP projection.", FineTuneConfig,
                  "fine_tuning.fine_tune:FT", needs="gradient", needs_subject=False),
        _built_in("ft+l", "The same, every entry bounded.", FineTuneConfig,
                  "fine_tuning.fine_tune:FT_L", needs="gradient", needs_subject=False),
        _built_in("attn", "Bounded fine-tuning of one layer's attention (AttnEdit).",
                  FineTuneConfig, "fine_tuning.fine_tune:ATTN", needs="trace", needs_subject=False),
        _built_in("ultraedit", "One gradient, normalised, and a closed form (UltraEdit).",
                  UltraEditConfig, "closed_form.ultraedit", needs="gradient",
                  needs_subject=False),
        _built_in("in-context", "A sentence in front of prompts; no weight is changed (ICE).",
                  InContextConfig, "in_context", settles=False, needs="ask",
                  needs_subject=False),
    )
}  # fmt: skip


def method_named(name: str | Method) -> Method:
    """A method, built in or added by a package; one that is at hand, such as a trained editor's.

    Raises:
        InvalidRequestError: there is none of that name, or it has to be trained first.
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        return METHODS[name]
    added = {point.name: point for point in entry_points(group=_GROUP)}
    if name in KINDS and name not in added:
        raise InvalidRequestError(
            f"Method '{name}' must be trained: make an editor with 'factlab train {name}' or "
            "train_editor(), and give its folder with --editor, or load_editor(folder).method()."
        )
    if name not in added:
        known = sorted({*METHODS, *added})
        raise InvalidRequestError(
            f"Unknown method '{name}'.{nearest(name, [*known, *KINDS])} Choose from "
            f"{', '.join(known)}; or, with a trained editor, {' or '.join(KINDS)}."
        )
    method = added[name].load()
    if not isinstance(method, Method):
        raise InvalidRequestError(
            f"The entry point '{name}' of group {_GROUP} is a {type(method).__name__}, not a "
            "factlab.editing.methods.Method."
        )
    return method
