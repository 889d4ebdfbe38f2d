"""`judge`: have another model say which answers of a run are right, and keep what it says."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factlab.arguments import checked
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation.judging.client import INSTRUCTION, Judge
from factlab.evaluation.measuring.rows import GivenAnswer
from factlab.evaluation.measuring.verdicts import (
    JUDGE,
    JUDGE_FORMAT,
    Verdict,
    Verdicts,
    verdict_key,
)
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.journal import Journal, Line
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard

KEY = "FACTLAB_JUDGE_KEY"
# So many failures in a row are not the answers' fault.
MOST_FAILURES = 5


@checked(in_steps=True)
def judge(
    folder: str | Path,
    url: str,
    model: str,
    key: str | None = None,
    neighborhood: bool = True,
    timeout_s: float | int = 60.0,
    at_once: int = 4,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Run:
    """Ask a judge of every answer of a run whether it is right, and keep its verdicts.

    The judge is another language model on a server of one's choice, with OpenAI's interface. It is
    sent the prompt, the right answers and the answer, and asked for "A: correct" or "B: incorrect"
    at temperature 0. Verdicts lie in the folder `judge` of the run; `fl.report` makes a score and
    the agreement with exact match of them. A call that was cut short goes on where it was, and asks
    again where no verdict came.

    Args:
        folder: of a run with answers (`MeasureConfig(answers=...)`), finished or not.
        url: of the server, such as `http://localhost:8000/v1`.
        model: what the server calls the judge.
        key: sent as a bearer token; by default what the environment has as `FACTLAB_JUDGE_KEY`.
        neighborhood: whether to ask about answers to prompts about other subjects too.
        timeout_s: for one verdict, in seconds.
        at_once: answers that the server is asked about at the same time.
        should_stop: asked now and then.
        progress: True for a bar, or a function that is called with answers judged and in all.

    Returns:
        The run, with verdicts. An answer on which none came has none, and the reason.

    Raises:
        InvalidRequestError: the run has no answers, or an argument cannot be used.
        StorageError: the server refuses the key or the address, or fails several times in a row;
            or a file cannot be read or written, or has verdicts of another judge.
    """
    if at_once < 1:
        raise InvalidRequestError(f"at_once={at_once} must be at least 1.")
    client = Judge(url, model, os.environ.get(KEY) if key is None else key, float(timeout_s))
    folder = Path(folder)
    answers = {verdict_key(a): a for a in _answers(load_run(folder), neighborhood)}
    if not answers:
        raise InvalidRequestError(
            f"'{folder}' holds no answers to judge. Evaluate with --answers, such as --answers "
            "qa,chat (in Python: MeasureConfig(answers=...))."
        )
    journal = _opened(folder / JUDGE, model)
    with journal.writing(Shard()) as writer:
        known = Verdicts.of(journal).by_key
        told = [key for key in answers if key in known and known[key].right is not None]
        to_do = [answer for key, answer in answers.items() if key not in {*told}]
        n_done, failures = len(told), _Failures(client.url)
        for verdicts in _asked(client, to_do, at_once):
            for verdict in verdicts:
                writer.append(len(journal.records), verdict.model_dump(mode="json"))
            failures.count(verdicts)
            n_done += len(verdicts)
            progress("asking the judge", n_done, len(answers))
            if should_stop():
                break
    return load_run(folder)


class _Failures:
    """Gives up where there is no end of failures.

    Args:
        url: of the judge.
    """

    def __init__(self, url: str) -> None:
        self._url, self._in_a_row = url, 0

    def count(self, verdicts: Sequence[Verdict]) -> None:
        """Look at some more verdicts.

        Raises:
            StorageError: too many in a row have failed.
        """
        for verdict in verdicts:
            self._in_a_row = 0 if verdict.right is not None else self._in_a_row + 1
            if self._in_a_row >= MOST_FAILURES:
                raise StorageError(
                    f"The judge at '{self._url}' gave no verdict on {self._in_a_row} answers in a "
                    f"row; the last: {verdict.reason}. What it said so far is kept; the same "
                    "command goes on."
                )


def _answers(run: Run, neighborhood: bool) -> Iterator[GivenAnswer]:
    """All answers of a run, before and after."""
    for row in run.rows:
        for measured in (row.before, row.right_after, row.after):
            for answer in (measured.answers or ()) if measured is not None else ():
                if neighborhood or answer.group != "neighborhood":
                    yield answer


def _opened(folder: Path, model: str) -> Journal:
    """The journal of a judge's verdicts, new or begun.

    Raises:
        StorageError: it is another judge's, or cannot be read or made.
    """
    request: Line = {"format": JUDGE_FORMAT, "model": model, "instruction": INSTRUCTION}
    if (folder / "run.json").exists():
        before = Journal.load(folder).request
        if before.get("model") != model or before.get("instruction") != INSTRUCTION:
            raise StorageError(
                f"'{folder}' holds verdicts of '{before.get('model')}', or of one that was "
                "instructed otherwise; verdicts of two judges do not mix. Move or delete that "
                f"folder to ask '{model}'."
            )
    return Journal.open(folder, request, dict, resume=True)


def _asked(
    client: Judge, answers: Sequence[GivenAnswer], at_once: int
) -> Iterator[Sequence[Verdict]]:
    """Verdicts on some answers at a time, in their order."""
    with ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(answers), at_once):
            yield list(pool.map(client.verdict, answers[start : start + at_once]))
