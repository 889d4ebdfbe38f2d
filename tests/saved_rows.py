"""Evaluations written by hand, for tests of reports."""

import math
from collections.abc import Sequence
from pathlib import Path

from factlab.evaluation.measuring.rows import Asked, Measurement, Row, TargetScore, Written
from factlab.evaluation.running.saved_run import FORMAT
from factlab.journal import Journal, Shard


def asked(new: float, true: float) -> Asked:
    """One token each; the more probable one is the model's choice."""
    return Asked(
        new=TargetScore(logprobs=(math.log(new),), top=(new > true,)),
        true=TargetScore(logprobs=(math.log(true),), top=(true > new,)),
    )


WON, LOST = asked(0.6, 0.2), asked(0.1, 0.5)


def measured(won: tuple[bool, bool, bool], text: str = "") -> Measurement:
    """Whether the new target wins on the rewrite, on the paraphrase and beside the subject."""
    rewrite, paraphrase, beside = ((WON,) if each else (LOST,) for each in won)
    written = Written(texts=(text,), entropy=6.0, consistency=0.25, words="nltk") if text else None
    return Measurement(rewrite=rewrite, paraphrase=paraphrase, neighborhood=beside, written=written)


UNEDITED, GOOD, BROAD = (False, False, False), (True, True, False), (True, True, True)


def make_row(case_id: int, won: tuple[bool, bool, bool], method: str = "rome", **changes) -> Row:
    values = {
        "case_id": case_id, "benchmark": "counterfact",
        "relation_id": "P36" if case_id % 2 else "P103", "subject": f"S{case_id}",
        "prompt": f"S{case_id} is in", "target_new": "Rome", "target_true": "Paris",
        "before": measured(UNEDITED, f"S{case_id} is as it was."),
        "after": measured(won, f"S{case_id} by {method} | is\nin Rome."),
        "edit_s": 1.5 + case_id, "measure_s": 2.0, "seed": 0,
    } | changes  # fmt: skip
    return Row(**values)


def save_run(
    folder: Path,
    rows: list[Row],
    method: str = "rome",
    mode: str = "each",
    n_cases: int | None = None,
    cases: Sequence[int] | None = None,
    findings: dict | None = None,
    model: dict | None = None,
    data: dict | None = None,
    **request: object,
) -> Path:
    benchmark = rows[0].benchmark if rows else "counterfact"
    n_cases = len(rows) if n_cases is None else n_cases
    journal = Journal.create(
        folder,
        {
            "format": FORMAT,
            "model": {"name": "gpt2-xl", "fingerprint": "f1", "dtype": "float32"} | (model or {}),
            "data": {"name": "facts", "sha256": "d1", "n_records": n_cases, "benchmark": benchmark}
            | (data or {}),
            "method": method, "config": None, "mode": mode,
            "generation": {"text_tokens": 100}, "seed": 0,
        }
        | request,
        {"cases": list(range(n_cases)), "versions": {"factlab": "1"}} | (findings or {}),
    )  # fmt: skip
    with journal.writing(Shard()) as writer:
        for case, row in zip(range(len(rows)) if cases is None else cases, rows, strict=True):
            writer.append(case, row.model_dump(mode="json"))
    return folder
