"""The editing methods by name.

A method is two functions: one that makes an edit for each fact, and one that writes all facts in a
single edit, if the method can. Packages add theirs by an entry point of the group
`factlab.methods` whose value is a `Method`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from factlab.editing.alphaedit import alphaedit
from factlab.editing.background import Background
from factlab.editing.configs import (
    AlphaEditConfig,
    EmmetConfig,
    FineTuneConfig,
    KnConfig,
    MemitConfig,
    RomeConfig,
)
from factlab.editing.edit import Edit
from factlab.editing.emmet import emmet
from factlab.editing.fine_tune import FineTuneMethod, fine_tune, fine_tune_each
from factlab.editing.kn import kn, kn_each
from factlab.editing.memit import memit, memit_each
from factlab.editing.rome import rome_each
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback

# Config of the method or None, background, progress.
Each = Callable[
    [LanguageModel, Sequence[Fact], Any, Background | None, ProgressCallback], list[Edit]
]
Together = Callable[[LanguageModel, Sequence[Fact], Any, Background | None, ProgressCallback], Edit]
Prepare = Callable[[LanguageModel, Sequence[Fact], Any], BaseModel]

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


def _one_by_one(together: Together) -> Each:
    def each(
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: Any,
        background: Background | None,
        progress: ProgressCallback,
    ) -> list[Edit]:
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
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: FineTuneConfig | None,
        _background: Background | None,
        progress: ProgressCallback,
    ) -> list[Edit]:
        return fine_tune_each(lm, facts, name, config, progress)

    def together(
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: FineTuneConfig | None,
        _background: Background | None,
        progress: ProgressCallback,
    ) -> Edit:
        return fine_tune(lm, facts, name, config, progress)

    return Method(name, about, FineTuneConfig, each, together)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("rome", "Rank-one update of one MLP (ROME).", RomeConfig, rome_each),
        Method("memit", "Least squares over several MLPs (MEMIT).", MemitConfig, memit_each, memit),
        Method("emmet", "ROME's constraint for many facts (EMMET).", EmmetConfig,
               _one_by_one(emmet), emmet),
        Method("alphaedit", "MEMIT in the null space of ordinary keys (AlphaEdit).",
               AlphaEditConfig, _one_by_one(alphaedit), alphaedit),
        Method("kn", "Values of knowledge neurons overwritten (KN).", KnConfig, kn_each, kn),
        _fine_tuning("ft", "Fine-tuning of one MLP projection."),
        _fine_tuning("ft+l", "The same, every entry bounded."),
        _fine_tuning("attn", "Bounded fine-tuning of one layer's attention (AttnEdit)."),
    )
}  # fmt: skip


def method_named(name: str | Method) -> Method:
    """A method, built in or added by a package; one that is at hand, such as a trained editor's.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        return METHODS[name]
    added = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in added:
        known = sorted({*METHODS, *added})
        raise InvalidRequestError(
            f"Unknown method '{name}'.{nearest(name, known)} Choose from {', '.join(known)}."
        )
    method = added[name].load()
    if not isinstance(method, Method):
        raise InvalidRequestError(
            f"The entry point '{name}' of group {_GROUP} is a {type(method).__name__}, not a "
            "factlab.editing.methods.Method."
        )
    return method
