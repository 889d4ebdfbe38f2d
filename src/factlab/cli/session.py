"""What all commands share: the options every one takes, the model, and how results are shown."""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console

from factlab.errors import FactlabError, InvalidRequestError, nearest
from factlab.progress import ProgressBar

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel
    from factlab.progress import ProgressCallback

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Hub id, folder or .gguf file; the bundled model by default."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")
]
EditOption = Annotated[
    list[Path] | None,
    typer.Option("--edit", help="Apply this saved edit first; may be given several times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, no prose.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


Config = TypeVar("Config", bound=BaseModel)


@dataclass
class Session:
    """One run of a command: its common options, and where its output goes."""

    model: str | None
    device: str | None
    dtype: str | None
    edits: list[Path]
    as_json: bool
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))

    def load_model(self) -> "LanguageModel":
        """Load the model and apply the edits that were asked for."""
        with self.progress() as report:
            report("loading the model", 0, 1)
            # Reading an edit is quick and loading a model is not: complain about the former first.
            from factlab.editing.edit import Edit

            edits = [Edit.load(folder) for folder in self.edits]
            from factlab.models.allocator import keep_freed_memory
            from factlab.models.load import load

            keep_freed_memory()
            lm = load(self.model, self.device, self.dtype, progress=report)
            for edit in edits:
                edit.apply_(lm)
            report("loading the model", 1, 1)
        return lm

    def say(self, text: object = "") -> None:
        """Print for a person; nothing under `--json`."""
        if not self.as_json:
            self.out.print(text, highlight=False, markup=False, soft_wrap=isinstance(text, str))

    def emit(self, document: dict[str, Any]) -> None:
        """Print the JSON document; nothing without `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")

    @contextmanager
    def progress(self) -> Iterator["ProgressCallback"]:
        """A callback for long-running functions; draws a bar on stderr while the block lasts.

        Where stderr is not a terminal, a line now and then takes its place.
        """
        with ProgressBar(self.err) as bar:
            yield bar


def command(app: typer.Typer, function: Callable[..., None], name: str) -> None:
    """Register `function(session, ...)` with the common options added to its own."""

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        model: str | None,
        device: str | None,
        dtype: str | None,
        edits: list[Path] | None,
        as_json: bool,
        debug: bool,
        **kwargs: Any,
    ) -> None:
        del debug  # main() looks for it, since an error may come before any command
        session = Session(model, device, dtype, edits or [], as_json)
        _show_log_messages(session.err)
        function(session, *args, **kwargs)

    own = list(inspect.signature(function).parameters.values())[1:]
    common = [
        _keyword("model", ModelOption, None),
        _keyword("device", DeviceOption, None),
        _keyword("dtype", DtypeOption, None),
        _keyword("edits", EditOption, None),
        _keyword("as_json", JsonOption, False),
        _keyword("debug", DebugOption, False),
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + common
    vars(wrapper)["__signature__"] = inspect.Signature(parameters)
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    del wrapper.__wrapped__
    app.command(name=name)(wrapper)


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _show_log_messages(console: Console) -> None:
    """Send what the library logs to stderr as plain sentences."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)

    logging.getLogger("factlab").handlers[:] = [Handler()]


def validated(kind: type[Config], **values: Any) -> Config:
    """Make a config of options, leaving out those that were not given.

    Raises:
        InvalidRequestError: a value is not allowed.
    """
    try:
        return kind(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option, reason = ".".join(map(str, first["loc"])), first["msg"].lower()
        if first["type"] == "extra_forbidden":
            raise InvalidRequestError(
                f"There is no setting '{option}' here.{nearest(option, list(kind.model_fields))} "
                f"Choose from {', '.join(sorted(kind.model_fields))}."
            ) from error
        if not option:  # options that do not go together
            reason = reason.removeprefix("value error, ")
            raise InvalidRequestError(f"These options do not go together: {reason}.") from error
        raise InvalidRequestError(
            f"Option '{option}' cannot be {first['input']!r}: {reason}."
        ) from error


def complain(error: Exception) -> int:
    """One sentence on stderr; the exit code."""
    console = Console(stderr=True)
    if isinstance(error, FactlabError):
        console.print(f"Error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    console.print(
        f"Error: unexpected {type(error).__name__}: {error}\n"
        "This is a bug in factlab; run again with --debug and report the traceback.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 1
