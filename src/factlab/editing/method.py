"""`Method`: what every editing method is.

A method works in two acts. It *settles* a request: what was left open, such as the layer, the clamp
or a learning rate, is looked up or worked out for every fact, without computing an edit. Then it
*computes* edits of facts that are settled alike, one for each, and if it can one with all of them.
What a fact's edit depends on is thus explicit before anything is computed, and the same whether the
fact comes alone, among others, in a sequence or in an evaluation.

The methods themselves are in `methods`; nothing here needs PyTorch.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from factlab.data.fact_files import check_conflicts
from factlab.editing.configs import MethodConfig
from factlab.errors import EditError, FactlabError, InvalidRequestError
from factlab.facts import Fact
from factlab.models.abilities import RungName
from factlab.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from factlab.editing.background import Background
    from factlab.editing.edit import Edit
    from factlab.models.language_model import LanguageModel

# What a fact can do wrong by itself; any other error is about all facts.
FAULTS = (EditError, InvalidRequestError)


T = TypeVar("T")
C_co = TypeVar("C_co", bound=MethodConfig, covariant=True)


@dataclass(frozen=True, slots=True)
class Settled(Generic[C_co]):
    """Settings of a method with nothing left open.

    Attributes:
        config: of the method.
        source: where its layers are from, in words; empty if it has none.
    """

    config: C_co
    source: str = ""


# What cannot be done for one fact is a value in its place: it says nothing of the other facts.
# An error that is raised is about all of them.
Settle = Callable[
    ["LanguageModel", Sequence[Fact], Any, "Background", ProgressCallback],
    "Sequence[Settled[Any] | FactlabError]",
]
Compute = Callable[
    ["LanguageModel", Sequence[Fact], Settled[Any], "Background", ProgressCallback],
    "Sequence[Edit | FactlabError]",
]
ComputeTogether = Callable[
    ["LanguageModel", Sequence[Fact], Settled[Any], "Background", ProgressCallback], "Edit"
]
Admit = Callable[["LanguageModel", Sequence[Fact], Any], MethodConfig]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to edit.

    Attributes:
        name: such as `rome`.
        about: one sentence.
        config: its settings.
        compute: from facts that are settled alike, one edit for each, all for the model as it is;
            or in place of an edit the error that says why there is none.
        compute_together: from such facts one edit with all of them; None if the method writes one
            fact at a time.
        settle: from facts and settings, or None for the defaults, what is `Settled` for each fact,
            in their order; None if nothing is ever left open. It computes no edit.
        admit: called with all facts before anything is done, and raises if it must not be done;
            gives the config with everything in it that tells this request from others.
        needs: what a model must be able to do for it; see `factlab.models.abilities`.
        needs_subject: whether it looks up a fact's subject, so that a fact must have one.
    """

    name: str
    about: str
    config: type[MethodConfig]
    compute: Compute
    compute_together: ComputeTogether | None = None
    settle: Settle | None = None
    admit: Admit | None = None
    needs: RungName = "ask"
    needs_subject: bool = True

    @property
    def writes_many(self) -> bool:
        """Whether one edit can hold many facts."""
        return self.compute_together is not None

    # -- first act --------------------------------------------------------------------------

    def admitted(
        self, lm: "LanguageModel", facts: Sequence[Fact], config: MethodConfig | None
    ) -> MethodConfig | None:
        """The config as it is asked for, or None for the defaults, if it may be.

        Raises:
            InvalidRequestError: there are no facts, one has nothing to write or lacks a subject
                that is needed, or the config is of another method; or it asks for the chat
                template of a model that has none.
            UnsupportedModelError: the model cannot do it.
        """
        if config is not None and not isinstance(config, self.config):
            raise InvalidRequestError(
                f"Method '{self.name}' takes a {self.config.__name__}, not a "
                f"{type(config).__name__}."
            )
        check_targets(facts, config is not None and config.is_erasing)
        self.check_subjects(facts)
        lm.abilities.need(self.needs)
        if config is not None and config.chat_contexts is not None:
            lm.chat_forms()  # or an error, before anything is computed
        return config if self.admit is None else self.admit(lm, facts, config)

    def settled(
        self,
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: MethodConfig | None = None,
        background: "Background | None" = None,
        progress: ProgressCallback = silent,
    ) -> "list[Settled[MethodConfig] | FactlabError]":
        """For each fact the settings with nothing left open, or why there are none.

        What comes of a fact does not depend on the others, nor on edits that are on the model.

        Raises:
            InvalidRequestError: as `admitted`, or a setting fits no fact, such as a layer that is
                not in the model.
        """
        config = self.admitted(lm, facts, config)
        if self.settle is None:
            return [Settled(config or self.config())] * len(facts)
        lm.identity.now(progress=progress)  # asked for all along; hashing takes a while
        return [*self.settle(lm, facts, config, _or_new(background), progress)]

    # -- second act -------------------------------------------------------------------------

    def attempts(
        self,
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: MethodConfig | None = None,
        background: "Background | None" = None,
        progress: ProgressCallback = silent,
    ) -> "list[Edit | FactlabError]":
        """For each fact its edit, for the model as it is; or why there is none.

        Raises:
            FactlabError: no fact can be written, for a reason that is not one fact's own.
        """
        background = _or_new(background)
        asked = self.settled(lm, facts, config, background, progress)
        results: dict[int, Edit | FactlabError] = {}
        alike: dict[Settled[MethodConfig], list[int]] = defaultdict(list)
        for number, one in enumerate(asked):
            if isinstance(one, Settled):
                alike[one].append(number)
            else:
                results[number] = one
        for one, numbers in alike.items():
            chosen = [facts[i] for i in numbers]
            edits = self.compute(lm, chosen, one, background, progress)
            results |= zip(numbers, edits, strict=True)
        return [results[i] for i in range(len(facts))]

    def each(
        self,
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: MethodConfig | None = None,
        background: "Background | None" = None,
        progress: ProgressCallback = silent,
    ) -> "list[Edit]":
        """One edit per fact, each for the model as it is.

        Raises:
            FactlabError: a fact cannot be written; of several the first.
        """
        return succeeded(self.attempts(lm, facts, config, background, progress))

    def together(
        self,
        lm: "LanguageModel",
        facts: Sequence[Fact],
        config: MethodConfig | None = None,
        background: "Background | None" = None,
        progress: ProgressCallback = silent,
    ) -> "Edit":
        """One edit with all facts, settled as the first of them is.

        Raises:
            InvalidRequestError: the method writes one fact at a time, or facts contradict each
                other.
            FactlabError: a fact cannot be written.
        """
        write = self.check_many()
        check_conflicts(facts)
        background = _or_new(background)
        first = self.settled(lm, facts, config, background, progress)[0]
        if isinstance(first, FactlabError):
            raise first
        return write(lm, facts, first, background, progress)

    def check_subjects(self, facts: Sequence[Fact]) -> None:
        """Refuse facts without a subject, if the method looks it up.

        Raises:
            InvalidRequestError: there is one.
        """
        for fact in facts if self.needs_subject else ():
            if not fact.subject:
                raise InvalidRequestError(
                    f"Method '{self.name}' looks up a fact's subject, and '{fact.prompt}' has "
                    "none. Give it, and write '{}' in the template where it stands; or use a "
                    "method that needs none, such as ultraedit."
                )

    def check_turn(self, turn: int) -> None:
        """Refuse edits of a sequence that write more facts than the method can in one, or none.

        Raises:
            InvalidRequestError: so many cannot be written at a time.
        """
        if turn < 1:
            raise InvalidRequestError(f"turn={turn}: an edit of a sequence writes at least one.")
        if turn > 1 and not self.writes_many:
            raise InvalidRequestError(
                f"Method '{self.name}' cannot write {turn} facts at a time. Leave the turn at 1."
            )

    def check_many(self) -> ComputeTogether:
        """What writes many facts in one edit.

        Raises:
            InvalidRequestError: the method writes one fact at a time.
        """
        if self.compute_together is None:
            raise InvalidRequestError(
                f"Method '{self.name}' writes one fact at a time. Write them in sequence with it "
                "(--sequence, of 'factlab eval' --mode sequence)."
            )
        return self.compute_together


def succeeded(attempts: Sequence[T | FactlabError]) -> list[T]:
    """All that was attempted.

    Raises:
        FactlabError: there is one in place of a result; the first is raised.
    """
    results: list[T] = []
    for attempt in attempts:
        if isinstance(attempt, FactlabError):
            raise attempt
        results.append(attempt)
    return results


def check_targets(facts: Sequence[Fact], erase: bool) -> None:
    """Refuse facts that give nothing to do.

    Raises:
        InvalidRequestError: there are none, or one has nothing to write.
    """
    if not facts:
        raise InvalidRequestError("The list of facts is empty. Give at least one.")
    for fact in facts:
        if fact.target_new is None and not erase:
            raise InvalidRequestError(
                f"'{fact.prompt}' has no target_new: nothing to write. Give one, or erase."
            )


def _or_new(background: "Background | None") -> "Background":
    from factlab.editing.background import Background  # noqa: PLC0415 - imports PyTorch

    return background or Background()
