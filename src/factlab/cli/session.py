"""What all commands share while they run: the model, and how results are shown."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from rich.console import Console

from factlab.cli.prose import print_prose
from factlab.cli.terminal import Terminal, json_line
from factlab.errors import FactlabError, StorageError
from factlab.progress import ProgressBar
from factlab.settings import made_of
from factlab.writing import behind

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel
    from factlab.progress import ProgressCallback

Config = TypeVar("Config", bound=BaseModel)


@dataclass
class Session:
    """One run of a command: its common options, and where its output goes.

    Attributes:
        edits: saved edits as they were named: folders, or user/repo on the Hub.
        edit_places: the folders that they are in, once they were checked.
        prefix: what stands in front of prompts, once the model is loaded: the texts of edits that
            change no weight.
    """

    model: str | None
    device: str | None
    dtype: str | None
    edits: list[Path]
    memory_gib: float | None
    as_json: bool
    edit_places: list[Path] = field(default_factory=list[Path], init=False)
    prefix: str = field(default="", init=False)
    out: Console = field(default_factory=Terminal)
    err: Console = field(default_factory=lambda: Terminal(stderr=True))

    def check(self) -> None:
        """Refuse what shows to be wrong with the options about the model before any is loaded.

        Raises:
            InvalidRequestError: unknown dtype, device or family, a device that is not there, or no
                memory.
            ModelLoadError: the file or folder of the model is not there.
            StorageError: an edit is not there.
        """
        from factlab.models.request import check_request

        check_request(self.model, self.device or "cpu", self.dtype, self.memory_gib)
        if self.edits:
            from factlab.editing.shipping.hub import edit_place

            self.edit_places = [edit_place(folder.as_posix()) for folder in self.edits]

    def check_device(self, device: str | None) -> None:
        """Refuse a device that is not there; see `check`."""
        from factlab.models.request import check_request

        check_request(self.model, device or "cpu", self.dtype, self.memory_gib)

    def load_model(self, asks: bool = False) -> "LanguageModel":
        """Load the model and apply the edits that were asked for.

        Args:
            asks: whether the command puts `prefix` in front of what it asks; others refuse edits
                that are such texts.
        """
        with self.progress() as report:
            report("loading the model", 0, 1)
            # Reading an edit is quick and loading a model is not: complain about the former first.
            from factlab.editing.edit import Edit

            edits = [Edit.load(folder) for folder in self.edit_places]
            from factlab.models.allocator import keep_freed_memory
            from factlab.models.loading import load

            keep_freed_memory()
            lm = load(
                self.model, self.device, self.dtype, memory_gib=self.memory_gib, progress=report
            )
            for edit in edits:
                if edit.prefix and asks:
                    edit.check_model(lm)
                    self.prefix = behind(self.prefix, edit.prefix)
                else:
                    edit.apply_(lm)
            report("loading the model", 1, 1)
        return lm

    def say(self, text: object = "") -> None:
        """Print for a person; nothing under `--json`."""
        if self.as_json:
            return
        if isinstance(text, str):
            print_prose(self.out, text)
        else:
            self.out.print(text, highlight=False, markup=False)

    def say_command(self, text: str) -> None:
        """Print a line to be copied, which is never broken."""
        if not self.as_json:
            self.out.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def emit(self, document: dict[str, Any]) -> None:
        """Print the JSON document; nothing without `--json`."""
        if self.as_json:
            sys.stdout.write(json_line(document))

    @contextmanager
    def progress(self) -> Iterator["ProgressCallback"]:
        """A callback for long-running functions; draws a bar on stderr while the block lasts.

        Where stderr is not a terminal, a line now and then takes its place.
        """
        with ProgressBar(self.err) as bar:
            yield bar


def check_readable(file: Path) -> None:
    """Refuse a file that is not there, without reading it.

    Raises:
        StorageError: there is none.
    """
    if not file.is_file():
        raise StorageError(f"There is no file '{file}'. Check the name.")


def check_outputs(picture: Path | None, numbers: Path | None, overwrite: bool) -> None:
    """Refuse names under which a picture and a file of numbers cannot be written.

    Raises:
        InvalidRequestError: no picture format belongs to the name.
        StorageError: a file cannot be written, or is there and may not be replaced.
    """
    from factlab.destinations import check_new_file
    from factlab.pictures import check_picture_path

    if picture is not None:
        check_picture_path(picture)
    for path in (picture, numbers):
        if path is not None:
            check_new_file(path, overwrite)


def validated(
    kind: type[Config], /, options: Mapping[str, str] | None = None, **values: Any
) -> Config:
    """Make a config of options, leaving out those that were not given.

    Args:
        kind: of config.
        options: names of options that are not the settings' own.
        values: what was given; the word none stands for None, where a setting may be that.

    Raises:
        InvalidRequestError: a value is not allowed; names the option.
    """
    given = {name: value for name, value in values.items() if value is not None}
    called = {name: f"--{_OPTIONS.get(name, name).replace('_', '-')}" for name in given}
    return made_of(kind, given, {**called, **(options or {})})


# Settings whose option has another name.
_OPTIONS = {
    "kinds": "kind",
    "positions": "tokens",
    "corruption": "noise",
    "answer": "answer-rule",
    "n_generated": "generate",
    "drift_tokens": "drift",
    "max_steps": "steps",
}


def complain(error: Exception) -> int:
    """One sentence on stderr; the exit code."""
    console = Terminal(stderr=True)
    if isinstance(error, FactlabError):
        print_prose(console, f"Error: {error}")
        return 2
    print_prose(
        console,
        f"Error: unexpected {type(error).__name__}: {error}\n"
        "This is a bug in factlab; run again with --debug and report the traceback.",
    )
    return 1
