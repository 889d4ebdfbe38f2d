"""Small human studies over runs written by hand, and raters who answer by a rule."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import factlab as fl
from factlab.evaluation.measuring.rows import Row, Written
from factlab.human.key import HumanStudy
from saved_rows import GOOD, make_row, save_run

METHODS = ("zq-one", "zq-two", "zq-three")


def wrote(row: Row, texts: Sequence[str], before: Sequence[str] = ()) -> Row:
    """A row with texts."""
    changed = {
        stage: getattr(row, stage).model_copy(
            update={"written": Written(texts=tuple(own), entropy=6.0, words="nltk")}
        )
        for stage, own in (("after", texts), ("before", before or texts))
    }
    return row.model_copy(update=changed)


def text_of(method: str, case: int, number: int) -> str:
    """What a method wrote, which does not say who it was."""
    about = {"zq-one": "the river", "zq-two": "the hill", "zq-three": "the wall"}
    return f"S{case} prompt {number} tells of {about.get(method, method)}."


def saved_run(
    folder: Path, method: str, cases: Sequence[int] = range(12), **request
) -> fl.evaluation.Run:
    """A run with two texts for each record."""
    rows = [
        wrote(
            make_row(case, GOOD, method),
            [text_of(method, case, number) for number in range(2)],
            [text_of("nothing", case, number) for number in range(2)],
        )
        for case in cases
    ]
    return fl.evaluation.load_run(
        save_run(folder / method, rows, method, n_cases=max(cases) + 1, cases=cases, **request)
    )


def make_study(
    folder: Path, methods: Sequence[str] = METHODS, labels: Sequence[str] | None = None, **config
) -> HumanStudy:
    """A study of these methods, in `folder / "study"`."""
    runs = [saved_run(folder, method) for method in methods]
    settings = {"items": 10, "per_rater": 5, "raters": 6} | config
    return fl.human.make_human_study(
        runs, folder / "study", fl.human.HumanConfig(**settings), labels
    )


Rule = Callable[[int, int, str], Sequence[int]]


def answers_of(study: HumanStudy, rater: int, rule: Rule, pages: int | None = None) -> dict:
    """The document of a rater who ranks methods by `rule(rater, item, question)`, the best first."""
    given = []
    for number, page in enumerate(study.pages[rater - 1][:pages], start=1):
        said = {"page": number, "seconds": 30.5}
        for question in ("consistent", "fluent"):
            ranking = rule(rater, page.item, question)
            for name, method in (("most", ranking[0]), ("least", ranking[-1])):
                said[f"{name}_{question}"] = study.letters[page.order.index(method)]
        given.append(said)
    return {
        "format": "factlab human answers 1", "study": study.study, "rater": rater,
        "stopped": len(given) < len(study.pages[rater - 1]), "pages": given,
    }  # fmt: skip


def hand_in(study: HumanStudy, folder: Path, rule: Rule) -> list[Path]:
    """Files of all raters."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"rater-{rater + 1}.json" for rater in range(len(study.pages))]
    for rater, file in enumerate(files, start=1):
        file.write_text(json.dumps(answers_of(study, rater, rule)))
    return files
