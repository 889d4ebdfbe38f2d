"""Which passages are compared: texts of the same records and prompts, cut to one length."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from factlab.errors import InvalidRequestError, counted
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.reporting.run_labels import UNEDITED, check_labels, label_runs
from factlab.evaluation.reporting.unedited import fact_of
from factlab.evaluation.running.saved_run import Run
from factlab.human.configs import HumanConfig

MOST_METHODS = 26  # as many as there are letters
_CUT = "…"
_ENDS = (".", "!", "?", '."', '!"', '?"', ".”", "!”", "?”", ".)", "。", "！", "？")
_LETTERS_PER_WORD = 16  # at most: texts without spaces have no words to count

Fact = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """What one method wrote.

    Attributes:
        label: what reports call it.
        run: its evaluation.
        texts: for every record that has some, prompt and continuation, one per generation prompt.
    """

    label: str
    run: Run
    texts: Mapping[Fact, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An item: a made-up fact and a passage by each method.

    Attributes:
        case_id: of the record.
        prompt: its rewriting prompt.
        target_new: what was made up.
        passages: as they are shown, in the order of the methods.
    """

    case_id: int
    prompt: str
    target_new: str
    passages: tuple[str, ...]


def sources_of(
    runs: Sequence[Run], labels: Sequence[str] | None = None, unedited: bool = False
) -> list[Source]:
    """The texts of some runs.

    Args:
        runs: evaluations that wrote texts.
        labels: what to call them; by default as reports do.
        unedited: put the unedited model's texts first, as the first run has them.

    Raises:
        InvalidRequestError: there is nothing to compare, or it cannot be.
    """
    if len(runs) + unedited < 2:
        raise InvalidRequestError(
            "A study compares texts of two or more methods. Give another run, or take the "
            "unedited model with unedited=True (--unedited on the command line)."
        )
    if len(runs) + unedited > MOST_METHODS:
        raise InvalidRequestError(f"A study compares at most {MOST_METHODS} methods.")
    if labels is not None and len(labels) != len(runs):
        raise InvalidRequestError(
            f"{counted(len(runs), 'run')} and {counted(len(labels), 'label')} are given. Give one "
            "label for each run, in their order."
        )
    names = label_runs(runs) if labels is None else [*labels]
    check_labels(names)
    pairs = list(zip(names, runs, strict=True))
    sources = [Source(name, run, _texts(name, run, "after")) for name, run in pairs]
    if unedited:
        sources.insert(0, Source(UNEDITED, runs[0], _texts(names[0], runs[0], "before")))
    _check_settings(sources)
    return sources


def choose_items(sources: Sequence[Source], config: HumanConfig) -> list[Comparison]:
    """Draw records that all methods wrote about, and of each one of its generation prompts.

    Raises:
        InvalidRequestError: there are too few, or the texts are of other prompts, or the same.
    """
    first, *others = sources
    shared = [fact for fact in sorted(first.texts) if all(fact in one.texts for one in others)]
    if len(shared) < config.items:
        raise InvalidRequestError(
            f"The runs have texts of {counted(len(shared), 'record')} in common, and "
            f"{config.items} are asked for. Ask for fewer (items, --items), or evaluate more "
            "records with --generate."
        )
    rows = {fact_of(row): row for row in first.run.rows}
    for fact in shared:
        _check_prompts(rows[fact], sources)
    _check_different(sources, shared)
    random = np.random.default_rng([config.seed, 0])
    drawn = random.permutation(len(shared))[: config.items]
    items: list[Comparison] = []
    for fact in (shared[i] for i in drawn):
        number = int(random.integers(len(first.texts[fact])))
        passages = tuple(cut(source.texts[fact][number], config.words) for source in sources)
        items.append(Comparison(fact[0], fact[1], fact[2], passages))
    return items


def cut(text: str, n_words: int) -> str:
    """The first words of a text; one that does not end with a sentence ends with "…".

    Line breaks stay, of several in a row two. A text without spaces is cut behind sixteen
    times as many letters.

    Examples:
        >>> from factlab.human.passages import cut
        >>> cut("Rome is old. Rome is large.", 5)
        'Rome is old. Rome is…'
    """
    lines = [" ".join(line.split()) for line in text.splitlines()]
    paragraphs = "\n".join(lines).strip()
    while "\n\n\n" in paragraphs:
        paragraphs = paragraphs.replace("\n\n\n", "\n\n")
    end = _end_of_word(paragraphs, n_words)
    kept = paragraphs[: min(end, _LETTERS_PER_WORD * n_words)].rstrip()
    if len(kept) == len(paragraphs) and kept.endswith(_ENDS):
        return kept
    return kept.removesuffix(_CUT).rstrip() + _CUT


def _end_of_word(text: str, n_words: int) -> int:
    """Where a text's word of this number ends."""
    ends = [word.end() for word in islice(re.finditer(r"\S+", text), n_words)]
    return ends[-1] if ends else 0


def _texts(label: str, run: Run, stage: str) -> dict[Fact, tuple[str, ...]]:
    texts: dict[Fact, tuple[str, ...]] = {}
    for row in run.rows:
        measured: Measurement | None = row.before if stage == "before" else row.after
        if measured is not None and measured.written is not None and measured.written.texts:
            texts[fact_of(row)] = measured.written.texts
    if not texts:
        raise InvalidRequestError(
            f"Run '{label}' holds no generated texts. Evaluate it again with texts, such as "
            "'factlab eval --generate 50'."
        )
    return texts


def _check_settings(sources: Sequence[Source]) -> None:
    """Refuse texts that were written with other settings, such as another length."""
    first, *others = sources
    wanted = _generation(first.run)
    for source in others:
        found = _generation(source.run)
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise InvalidRequestError(
                    f"Texts of '{first.label}' and '{source.label}' were not written alike: "
                    f"{name} is {wanted.get(name)} and {found.get(name)}. Evaluate both with the "
                    "same settings of texts."
                )


def _generation(run: Run) -> dict[str, object]:
    settings = run.request.generation
    return {
        name: value
        for name, value in (settings.items() if isinstance(settings, dict) else ())
        if name != "n_records"
    }


def _check_prompts(row: Row, sources: Sequence[Source]) -> None:
    """Refuse texts of a record that continue other prompts.

    Rows do not say what was continued. Runs of the same records asked the same; texts of others
    must begin alike.
    """
    first, *others = sources
    texts, known = first.texts[fact_of(row)], first.run.request.data.sha256
    for source in others:
        own, sha256 = source.texts[fact_of(row)], source.run.request.data.sha256
        is_alike = len(own) == len(texts) and (
            sha256 == known
            or all(_begin_alike(*pair, row.subject) for pair in zip(texts, own, strict=True))
        )
        if not is_alike:
            raise InvalidRequestError(
                f"Texts of '{first.label}' and '{source.label}' on record {row.case_id} are of "
                "other prompts. Evaluate the same records with both."
            )


def _begin_alike(one: str, other: str, subject: str) -> bool:
    """Whether two texts may continue one prompt: the subject is in what they begin with."""
    if one.split()[:1] != other.split()[:1]:
        return False
    if subject not in one or subject not in other:
        return True
    end = one.index(subject) + len(subject)
    return one[:end] == other[:end]


def _check_different(sources: Sequence[Source], shared: Sequence[Fact]) -> None:
    for number, source in enumerate(sources):
        for other in sources[:number]:
            if all(source.texts[fact] == other.texts[fact] for fact in shared):
                raise InvalidRequestError(
                    f"'{other.label}' and '{source.label}' hold the same texts. Give each run "
                    "once, or other runs."
                )
