"""The report of the probes: what came out, in words and tables, as Markdown and as HTML."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.localising.exceptions_page import exceptions_part
from factlab.evaluation.probing.scores import InverseScores
from factlab.evaluation.reporting.formats import estimate_cell
from factlab.evaluation.reporting.page import Part, Table, html_page, markdown_page
from factlab.evaluation.studies.tables import to_csv
from factlab.storage import write_text

if TYPE_CHECKING:
    from factlab.evaluation.probing.result import Probes

TITLE = "What edits do beside the fact"
_NO = "—"
_PICTURE = "written"
_ALT = {_PICTURE: "consistency of texts against their fluency, before and after"}
_OF = {"new": "new object", "true": "true object"}
_FACTS = {"all": "all", "hold": "that hold"}


def page_parts(probes: "Probes") -> list[Part]:
    """The page, part by part."""
    picture = [_PICTURE] if probes.written and probes.written[0].n_both else []
    return [
        Part("What was done", method_in_words(probes), [], []),
        Part(
            "Backwards", inverse_in_words(probes),
            [inverse_table(probes)] if probes.inverse else [], [],
        ),
        Part("The subject's essence", [], [essence_table(probes)], []),
        Part(
            "Fluency and consistency",
            [] if probes.written else ["No texts were written."],
            [written_table(probes)] if probes.written else [], picture,
        ),
        exceptions_part(probes.exceptions),
    ]  # fmt: skip


def method_in_words(probes: "Probes") -> list[str]:
    """What was probed, and what could not be."""
    asked = probes.asked
    return [
        f"{counted(len(probes.facts), 'fact')} of {asked.data.name}, written by "
        f"{asked.data.method} into {asked.model.name} "
        f"({asked.model.dtype.removeprefix('torch.')}), each asked of the model with its own edit.",
        *probes.notes,
    ]


def inverse_in_words(probes: "Probes") -> list[str]:
    """Whether who has an object has come with what a subject has."""
    found = next((one for one in probes.inverse if one.prompt == "new"), None)
    if found is None:
        return ["No fact could be asked backwards."]
    lift = found.specific_lift
    low, high = lift.interval
    if not lift.has_interval:
        said = "One fact says nothing of others."
    elif low > 0:
        said = "The interval is above 0: something of the fact has come backwards too."
    elif high < 0:
        said = "The interval is below 0: the subject has lost beside others."
    else:
        said = "The interval has 0 in it: nothing is seen of the fact backwards."
    return [
        f"After inverse prompts of the new object, the edited subject gains "
        f"{lift.in_words(2, signed=True)} nats beyond the other subjects of its relation. {said}"
    ]


def inverse_table(probes: "Probes") -> Table:
    """Places and lifts of the edited subjects."""
    heads = [
        "asked of", "facts", "n", "place before", "place after", "moved", "first before",
        "first after", "lift", "lift of others", "beyond them", "rose",
    ]  # fmt: skip
    return Table(
        heads, [_inverse_line(one) for one in probes.inverse], 2,
        "Facts that hold: after the edit the new object is more probable than the true one. Place: "
        "share of other subjects of the relation, of which the object is not true, that are less "
        "probable than the edited one after the inverse prompt; one half by chance. First: the "
        "edited one is the most probable. Lift: of log P(subject), in nats. Rose: share of facts "
        "whose subject gains more than the others do in the mean. Shares ×100; in brackets or "
        "after ± stands the 95 % interval over facts.",
    )  # fmt: skip


def _inverse_line(one: InverseScores) -> list[str]:
    shares = one.place_before, one.place_after, one.moved, one.first_before, one.first_after
    lifts = one.lift, one.others_lift, one.specific_lift
    return [
        _OF[one.prompt], _FACTS[one.facts], f"{one.n}",
        *(estimate_cell(each, 100.0, 0) for each in shares),
        *(estimate_cell(each, 1.0, 2) for each in lifts), estimate_cell(one.rose, 100.0, 0),
    ]  # fmt: skip


def essence_table(probes: "Probes") -> Table:
    """Perplexity of texts about the subject, and the next token."""
    one = probes.essence
    line = [
        f"{one.n}", estimate_cell(Estimate(one.ppl_before, math.nan), 1.0, 2),
        estimate_cell(Estimate(one.ppl_after, math.nan), 1.0, 2), estimate_cell(one.rise, 1.0, 2),
        estimate_cell(one.kept, 1.0, 2), f"{one.n_kl}", estimate_cell(one.kl, 1.0, 3),
    ]  # fmt: skip
    heads = ["facts", "perplexity before", "after", "rise", "essence kept", "facts", "KL"]
    return Table(
        heads,
        [line],
        0,
        'Perplexity: of texts that the unedited model wrote, beginning with "{subject} is a". '
        "Essence kept: 1 less the rise, cut off at 0 and 5, over 5, fact by fact (Hase et al. "
        '2023). KL: of the next token after "{subject} is a", before ‖ after, in nats.',
    )


def written_table(probes: "Probes") -> Table:
    """Fluency and consistency, and their correlations over facts."""
    lines = [
        [
            one.stage,
            f"{one.n}",
            estimate_cell(one.entropy, 1.0, 2),
            f"{one.n_both}",
            estimate_cell(one.consistency, 1.0, 3),
            estimate_cell(one.together.linear, 1.0, 2),
            estimate_cell(one.together.ranks, 1.0, 2),
        ]
        for one in probes.written
    ]
    heads = ["texts", "facts", "GE", "with RS", "RS", "correlation", "of ranks"]
    return Table(
        heads, lines, 1,
        "GE: entropy of the texts' word n-grams, in bits. RS: cosine with references about the new "
        "object. Correlations of both over facts, with bootstrap intervals.",
    )  # fmt: skip


def to_markdown(probes: "Probes") -> str:
    """The page as Markdown."""
    return markdown_page(TITLE, page_parts(probes), _ALT)


def save_report(probes: "Probes", folder: Path) -> list[Path]:
    """Write everything; see `Probes.save`."""
    parts = page_parts(probes)
    files = [folder / f"{name}.png" for part in parts for name in part.pictures]
    pictures = {file.stem: probes.plot(file) for file in files}
    texts = {
        "report.md": to_markdown(probes),
        "report.html": html_page(TITLE, parts, pictures),
        "rows.csv": to_csv(probes.rows()),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *files]
