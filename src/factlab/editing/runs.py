"""Many facts: each in an edit of its own, all in one edit, or one edit on top of the other.

| function | edits | each computed on |
|---|---|---|
| `edit_each` | one per fact, measured alone, as in the papers' tables | the model as it is |
| `edit_together` | one with all facts | the model as it is |
| `edit_sequence` | one per fact (or per `turn`), stacked | the model with all before |

All three tell how the model answers before, right after each edit, and after the last one.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from factlab.arguments import checked, listed
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.edit_run import EditRun
from factlab.editing.in_context import check_room
from factlab.editing.method import Method, Settled
from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.models.answering import Answer, answers
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.writing import behind


@checked()
def edit_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: str | Method = "rome",
    config: MethodConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> EditRun:
    """One independent edit per fact.

    Args:
        lm: the model, left as it is.
        facts: what to write; they may contradict each other.
        method: see `METHODS`.
        config: of that method.
        background: statistics and contexts that are at hand.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: there is no such method, or a fact has nothing to write.
        EditError: an edit failed.

    Examples:
        >>> run = fl.edit_each(lm, facts, "rome")
        >>> [edit.method for edit in run.edits]
        ['rome', 'rome']
        >>> said_before = [answer.said for answer in run.before]
    """
    facts = listed(facts)
    chosen = method_named(method)
    chosen.admitted(lm, facts, config)
    before = answers(lm, facts)
    edits = chosen.each(lm, facts, config, background, progress)
    after: list[Answer] = []
    for fact, edit in zip(facts, edits, strict=True):
        progress("asking the edited models", len(after), len(facts))
        after += answers_with(lm, edit, [fact])
    progress("asking the edited models", len(after), len(facts))
    return EditRun("each", tuple(facts), tuple(edits), before, tuple(after), tuple(after))


@checked()
def edit_together(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: str | Method = "memit",
    config: MethodConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> EditRun:
    """One edit with all facts; arguments and errors as for `edit_each`.

    Raises:
        InvalidRequestError: also if the method writes one fact at a time, or facts contradict each
            other.

    Examples:
        >>> run = fl.edit_together(lm, facts, "memit")
        >>> run.n_say_new <= len(facts)
        True
        >>> run.edits[0].save("both")
    """
    facts = listed(facts)
    chosen = method_named(method)
    chosen.admitted(lm, facts, config)
    check_conflicts(facts)
    chosen.check_many()
    before = answers(lm, facts)
    edit = chosen.together(lm, facts, config, background, progress)
    after = answers_with(lm, edit, facts)
    return EditRun("together", tuple(facts), (edit,), before, after, after)


@checked()
def edit_sequence(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: str | Method = "rome",
    config: MethodConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
    turn: int = 1,
) -> EditRun:
    """One edit after another, each computed on the model with all before it.

    Contexts and second moments are those of the model before the first edit.

    Args:
        lm: the model, left as it is.
        facts: what to write, in this order; a later one may replace an earlier one.
        method: see `METHODS`.
        config: of that method.
        background: statistics and contexts that are at hand.
        progress: True for a bar, or a function that is called with facts done and in all.
        turn: facts per edit.

    Raises:
        InvalidRequestError: as for `edit_each`, or the method cannot write so many at once.
        EditError: an edit failed.

    Examples:
        >>> run = fl.edit_sequence(lm, facts, "ft+l")
        >>> run.n_said_new_right_after >= 0  # not all of which need be said at the end
        True
        >>> whole = run.combined()
        >>> whole.facts == tuple(facts)
        True
    """
    facts = listed(facts)
    chosen = method_named(method)
    chosen.admitted(lm, facts, config)
    chosen.check_turn(turn)
    for start in range(0, len(facts), turn):
        check_conflicts(facts[start : start + turn])
    before = answers(lm, facts)
    right_after: list[Answer] = []
    with EditSequence(lm, chosen, config, background) as sequence:
        sequence.prepare(facts, progress)
        for start in range(0, len(facts), turn):
            progress("editing in sequence", start, len(facts))
            some = facts[start : start + turn]
            sequence.write(some)
            right_after += answers(lm, some, sequence.prefix)
        progress("editing in sequence", len(facts), len(facts))
        at_end = answers(lm, facts, sequence.prefix)
    edits = tuple(sequence.edits)
    return EditRun("sequence", tuple(facts), edits, before, tuple(right_after), at_end)


def answers_with(lm: LanguageModel, edit: Edit, facts: Sequence[Fact]) -> tuple[Answer, ...]:
    """How the model answers the prompts of some facts with an edit, whatever it changes.

    Raises:
        WrongModelError: the edit was made for another model.
        EditError: it cannot be applied.
    """
    if edit.prefix:
        edit.check_model(lm)
        return answers(lm, facts, edit.prefix)
    with edit.applied(lm):
        return answers(lm, facts)


class EditSequence:
    """Edits of a model, each computed with all before it applied; undone at the end of the block.

    Args:
        lm: the model.
        method: computes the edits.
        config: of the method.
        background: of the model before the first edit.

    Attributes:
        edits: those that are applied, in order.
    """

    def __init__(
        self,
        lm: LanguageModel,
        method: Method,
        config: MethodConfig | None,
        background: Background | None,
    ) -> None:
        self._lm, self._method, self._config = lm, method, config
        self._background = background or Background()
        self._applied = ExitStack()
        self._pile = self._applied.enter_context(lm.patches.applied())
        self.edits: list[Edit] = []

    @property
    def prefix(self) -> str:
        """What stands in front of every prompt: the texts of edits that are such, in order."""
        return behind(*(edit.prefix for edit in self.edits))

    def __enter__(self) -> "EditSequence":
        return self

    def __exit__(self, *_reason: object) -> None:
        self._applied.close()

    def prepare(self, facts: Sequence[Fact], progress: ProgressCallback = silent) -> None:
        """Find out what edits of some facts need of the model, before the first edit changes it.

        Args:
            facts: that will be written.
            progress: told what is going on.

        Raises:
            InvalidRequestError: a setting fits no fact.
            StatisticsError: second moments cannot be collected.
        """
        settled = self._method.settled(self._lm, facts, self._config, self._background, progress)
        for needs in {one.config.needs for one in settled if isinstance(one, Settled)}:
            self._background.gather(self._lm, needs, progress)

    def write(self, facts: Sequence[Fact]) -> Edit:
        """Compute an edit with some facts, and apply it.

        Args:
            facts: one, or several if the method can write them together.

        Raises:
            InvalidRequestError: there are none, or more than the method can write at once.
            EditError: the edit failed; the sequence is as it was.
        """
        if not facts or (len(facts) > 1 and not self._method.writes_many):
            raise InvalidRequestError(
                f"Method '{self._method.name}' writes one fact at a time, not {len(facts)}. Write "
                "them one after the other."
                if facts
                else "There are no facts to write. Give at least one."
            )
        arguments = (self._lm, facts, self._config, self._background)
        edit = (
            self._method.each(*arguments)[0]
            if len(facts) == 1
            else self._method.together(*arguments)
        )
        self._put(edit)
        return edit

    def put(self, edit: Edit) -> None:
        """Apply an edit that is the next of this sequence and was computed earlier."""
        edit.check_model(self._lm)
        self._put(edit)

    def _put(self, edit: Edit) -> None:
        if edit.prefix:
            together = behind(self.prefix, edit.prefix)
            n_facts = sum(len(one.facts) for one in self.edits if one.prefix) + len(edit.facts)
            check_room(self._lm, together, n_facts)
        self._pile.add(edit.updates, edit)
        self.edits.append(edit)
