"""Several edits of one model as one."""

from collections.abc import Sequence

from factlab.arguments import checked
from factlab.editing.edit import SKIPPED, Edit, current_versions
from factlab.editing.remembered import of_all
from factlab.errors import EditError, InvalidRequestError, WrongModelError
from factlab.writing import behind


@checked()
def combine(edits: Sequence[Edit]) -> Edit:
    """Put edits of one model together: applying the result is applying all of them in order.

    An edit that was computed on top of others must come after those of them that are given. Those
    that are not given, the result still needs.

    Args:
        edits: at least one, in the order in which to apply them.

    Returns:
        An edit with all updates and facts; method names are joined by `+`, configs and diagnostics
        are lists under `edits`.

    Raises:
        InvalidRequestError: no edits were given.
        WrongModelError: they are for different models.
        EditError: one comes before another that it was computed on top of; or some change weights
            and others are texts in front of prompts.
    """
    if not edits:
        raise InvalidRequestError("There are no edits to combine. Give at least one.")
    base = edits[0].base
    for other in edits:
        if other.base.fingerprint != base.fingerprint:
            raise WrongModelError(
                f"These edits are for different models: {base.name} (fingerprint "
                f"{base.fingerprint[:12]}) and {other.base.name} ({other.base.fingerprint[:12]}). "
                "Combine edits of one model."
            )
    if any(edit.prefix for edit in edits) and any(edit.updates for edit in edits):
        raise EditError(
            "Some of these edits change weights and others stand in front of prompts. Combine "
            "those of a kind."
        )
    return Edit(
        method="+".join(edit.method for edit in edits),
        facts=tuple(fact for edit in edits for fact in edit.facts),
        updates=tuple(update for edit in edits for update in edit.updates),
        base=base.model_copy(update={"on_top_of": _still_needed(edits)}),
        config={"edits": [edit.config for edit in edits]},
        diagnostics={"edits": [edit.diagnostics for edit in edits], **_skipped(edits)},
        versions=current_versions(),
        remembered=of_all([(edit.facts, edit.remembered) for edit in edits]),
        prefix=behind(*(edit.prefix for edit in edits)),
    )


def _skipped(edits: Sequence[Edit]) -> dict[str, list[int]]:
    """The places of facts that were left out, among the facts of all edits."""
    places: list[int] = []
    at = 0
    for edit in edits:
        places += [at + place for place in edit.diagnostics.get(SKIPPED, ())]
        at += len(edit.facts)
    return {SKIPPED: places} if places else {}


def _still_needed(edits: Sequence[Edit]) -> tuple[str, ...]:
    """Digests of the updates that must be on a model before the first edit."""
    digests = [{update.digest for update in edit.updates} for edit in edits]
    given = set[str]().union(*digests)
    supplied: set[str] = set()
    needed: list[str] = []
    for number, (edit, own) in enumerate(zip(edits, digests, strict=True), start=1):
        missing = [digest for digest in edit.base.on_top_of if digest not in supplied]
        if given.intersection(missing):
            raise EditError(
                f"Edit {number} of {len(edits)} ({edit.method}) was computed on top of an edit "
                "that comes after it. Give them in the order in which they were made."
            )
        needed += [digest for digest in missing if digest not in needed]
        supplied |= own
    return tuple(needed)
