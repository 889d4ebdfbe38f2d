"""The editing methods by name.

A method is two functions: one that makes an edit for each fact, and one that writes all facts in a
single edit, if the method can. Packages add theirs by an entry point of the group
`factlab.methods` whose value is a `Method`.

Names, sentences and settings are at hand without PyTorch; a built-in method's own module is
imported when it is first used.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factlab.editing.configs import (
    AlphaEditConfig,
    EmmetConfig,
    FineTuneConfig,
    FineTuneMethod,
    KnConfig,
    MemitConfig,
    RomeConfig,
)
from factlab.editing.trained.configs import KINDS
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import Fact
from factlab.progress import ProgressCallback

if TYPE_CHECKING:
    from factlab.editing.background import Background
    from factlab.editing.edit import Edit
    from factlab.models.language_model import LanguageModel

# Config of the method or None, background, progress.
Each = Callable[
    ["LanguageModel", Sequence[Fact], Any, "Background | None", ProgressCallback], "list[Edit]"
]
Together = Callable[
    ["LanguageModel", Sequence[Fact], Any, "Background | None", ProgressCallback], "Edit"
]
Prepare = Callable[["LanguageModel", Sequence[Fact], Any], BaseModel]

_GROUP = "factlab.methods"


@dataclass(frozen=True, slots=True)
class Method:
    """A way to edit.

    Attributes:
        name: such as `rome`.
        about: one sentence.
        config: its settings.
        each: makes one edit per fact, all for the model as it is.
        together: makes one edit with all facts; None if the method writes one fact at a time.
        prepare: called once with all facts before a run begins, and raises if it must not begin;
            gives the config with everything in it that tells this run from others.
    """

    name: str
    about: str
    config: type[BaseModel]
    each: Each
    together: Together | None = None
    prepare: Prepare | None = None


def _built_in(name: str) -> Callable[..., Any]:
    """A function of `factlab.editing`; imported when it is called.

    All of them take a model, facts, config, background and progress.
    """

    def call(*args: Any) -> Any:
        return getattr(importlib.import_module("factlab.editing"), name)(*args)

    return call


def _one_by_one(together: Together) -> Each:
    def each(
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: Any,
        background: "Background | None",
        progress: ProgressCallback,
    ) -> "list[Edit]":
        from factlab.editing.background import Background  # noqa: PLC0415 - imports PyTorch

        background = background or Background()
        edits: list[Edit] = []
        for fact in facts:
            # The first edit settles layers; the others must not settle otherwise.
            settled = type(config).model_validate(edits[0].config) if edits and config else config
            edits.append(together(lm, [fact], settled, background, progress))
        return edits

    return each


def _fine_tuning(name: FineTuneMethod, about: str) -> Method:
    def each(
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: FineTuneConfig | None,
        _background: "Background | None",
        progress: ProgressCallback,
    ) -> "list[Edit]":
        from factlab.editing.fine_tuning.fine_tune import fine_tune_each  # noqa: PLC0415 - imports PyTorch

        return fine_tune_each(lm, facts, name, config, progress)

    def together(
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: FineTuneConfig | None,
        _background: "Background | None",
        progress: ProgressCallback,
    ) -> "Edit":
        from factlab.editing.fine_tuning.fine_tune import fine_tune  # noqa: PLC0415 - imports PyTorch

        return fine_tune(lm, facts, name, config, progress)

    return Method(name, about, FineTuneConfig, each, together)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("rome", "Rank-one update of one MLP (ROME).", RomeConfig, _built_in("rome_each")),
        Method("memit", "Least squares over several MLPs (MEMIT).", MemitConfig,
               _built_in("memit_each"), _built_in("memit")),
        Method("emmet", "ROME's constraint for many facts (EMMET).", EmmetConfig,
               _one_by_one(_built_in("emmet")), _built_in("emmet")),
        Method("alphaedit", "MEMIT in the null space of ordinary keys (AlphaEdit).",
               AlphaEditConfig, _one_by_one(_built_in("alphaedit")), _built_in("alphaedit")),
        Method("kn", "Values of knowledge neurons overwritten (KN).", KnConfig,
               _built_in("kn_each"), _built_in("kn")),
        _fine_tuning("ft", "Fine-tuning of one MLP projection."),
        _fine_tuning("ft+l", "The same, every entry bounded."),
        _fine_tuning("attn", "Bounded fine-tuning of one layer's attention (AttnEdit)."),
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
