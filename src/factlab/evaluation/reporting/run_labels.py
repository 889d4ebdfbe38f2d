"""What runs are called in a report."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from factlab.errors import InvalidRequestError
from factlab.evaluation.running.saved_run import Run
from factlab.storage import JsonValue

UNEDITED = "unedited"
_MODES = {"sequence": "in sequence"}
_DIFFERENCES_SHOWN = 2


def label_runs(runs: Sequence[Run]) -> list[str]:
    """Name the runs of one table so that no two are called the same.

    A name is the method; then, unless each record has a model of its own, the number of edits and
    the mode; then the settings in which runs of that name differ.
    """
    plain = [_plain(run) for run in runs]
    named: list[str] = []
    for run, name in zip(runs, plain, strict=True):
        same = [other for other, called in zip(runs, plain, strict=True) if called == name]
        named.append(name + _differences(run, same))
    return _numbered(named)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse names that do not tell the runs of one table apart.

    Raises:
        InvalidRequestError: two are the same, or one is what the unedited model is called.
    """
    for label, count in Counter(labels).items():
        if count > 1 or label == UNEDITED:
            raise InvalidRequestError(
                f"The label '{label}' is given twice, or is that of the unedited model. "
                "Call every run something else."
            )


def _plain(run: Run) -> str:
    mode = run.request.mode
    if mode == "each":
        return run.request.method
    return f"{run.request.method}, {run.n_edits} {_MODES.get(mode, mode)}"


def _differences(run: Run, others: Sequence[Run]) -> str:
    """The settings in which a run differs from others, as ` (layer=5)`."""
    own = _settings(run)
    theirs = [_settings(other) for other in others]
    names = [name for name in sorted(own) if any(t.get(name) != own[name] for t in theirs)]
    shown = [f"{name}={own[name]}" for name in names[:_DIFFERENCES_SHOWN]]
    return f" ({', '.join(shown)})" if shown else ""


def _settings(run: Run) -> dict[str, str]:
    flat: dict[str, str] = {}

    def collect(value: JsonValue, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}" if name else key)
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)

    collect(run.config, "")
    flat["seed"] = str(run.request.seed)
    flat["records"] = str(run.request.data.n_records)
    return flat


def _numbered(names: Sequence[str]) -> list[str]:
    """Number what still has the same name."""
    seen = Counter[str]()
    numbered: list[str] = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return numbered
