"""`make_human_study`: a page for raters, and a key for whoever counts their answers."""

from collections.abc import Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.destinations import check_new_folder
from factlab.errors import StorageError
from factlab.evaluation.running.saved_run import Run
from factlab.human.configs import HumanConfig
from factlab.human.key import KEY, PAGE, HumanStudy
from factlab.human.page import study_page
from factlab.human.passages import choose_items, sources_of
from factlab.human.plan import plan_pages
from factlab.storage import folder_written_atomically, write_text


@checked()
def make_human_study(
    runs: Sequence[Run],
    folder: str | Path,
    config: HumanConfig | None = None,
    labels: Sequence[str] | None = None,
) -> HumanStudy:
    """Write a study in which people compare what several methods make a model write.

    `study.html` goes to the raters: one file that works without a network and from a mail. Each
    rater has a number, from 1, and opens it with `#rater=3` behind its name or types the number in.
    `key.json` says which method wrote what; raters must not see it. ROME paper, appendix J.

    Args:
        runs: evaluations of the same records, with generated texts, by different methods.
        folder: where both files go; new or empty.
        config: how large the study is.
        labels: what to call the runs; by default as reports do.

    Returns:
        The study with its key.

    Raises:
        InvalidRequestError: the runs cannot be compared, or share too few records.
        StorageError: the folder holds something, or cannot be written.

    Examples:
        >>> records = fl.load_records("builtin", limit=2)
        >>> for layer in (0, 1):
        ...     settings = fl.editing.FineTuneConfig(layer=layer, steps=1)
        ...     run = fl.evaluate(lm, records, "ft", f"layer-{layer}", settings)
        >>> runs = [fl.evaluation.load_run(f"layer-{layer}") for layer in (0, 1)]
        >>> config = fl.human.HumanConfig(items=2, per_rater=2, raters=3)
        >>> study = fl.human.make_human_study(runs, "study", config)
        >>> study.labels
        ('ft (layer=0)', 'ft (layer=1)')
    """
    folder = Path(folder)
    check_study_folder(folder)
    config = config or HumanConfig()
    sources = sources_of(runs, labels, config.unedited)
    items = choose_items(sources, config)
    study = HumanStudy.of(sources, items, plan_pages(config, len(sources)), config)
    with folder_written_atomically(folder) as temporary:
        study.save(temporary / KEY)
        write_text(temporary / PAGE, study_page(study))
    return study


def check_study_folder(folder: Path) -> None:
    """Refuse a folder that no study can be written into.

    Raises:
        StorageError: it holds something, such as a study, or cannot be made.
    """
    if (folder / KEY).exists():
        raise StorageError(
            f"'{folder}' holds a human study already, with a key that its answers need. Choose "
            "another folder."
        )
    check_new_folder(folder)
