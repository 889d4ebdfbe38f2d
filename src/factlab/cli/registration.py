"""How a function becomes a command: shared options, panels, examples, and help as it is written."""

import copy
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from factlab.cli.prose import print_prose
from factlab.cli.session import Session
from factlab.errors import InvalidRequestError

# Groups of commands.
START, LOCATE, EDIT, MEASURE, MODELS = (
    "Start here", "Locate", "Edit", "Measure", "Models and data",
)  # fmt: skip
# Groups of options.
FACT, MANY, RECORDS, METHOD, MEASURED, RUNNING = (
    "The fact", "Many facts", "Records", "Method", "What is measured", "Running",
)  # fmt: skip
CORRUPTION, RESTORED = "What is corrupted", "What is restored"
MODEL, OUTPUT = "Model", "Output"
# In the order in which they are shown.
_ORDER = (
    None, FACT, MANY, RECORDS, METHOD, RESTORED, CORRUPTION, MEASURED, RUNNING, MODEL, OUTPUT,
)  # fmt: skip

ALL = ("model", "device", "dtype", "edits", "memory_gib")
NO_MODEL: tuple[str, ...] = ()

_COMMON = {
    "model": Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Hub id, folder or .gguf file; tiny:gpt2 is a small random one.",
            show_default="the bundled model",
            rich_help_panel=MODEL,
        ),
    ],
    "device": Annotated[
        str | None,
        typer.Option(
            "--device",
            help="cpu, cuda, cuda:1, mps, or auto to spread it.",
            show_default="cuda if there is any, else cpu",
            rich_help_panel=MODEL,
        ),
    ],
    "dtype": Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="float32, bfloat16, float16 or float64.",
            show_default="float32",
            rich_help_panel=MODEL,
        ),
    ],
    "edits": Annotated[
        list[Path] | None,
        typer.Option(
            "--edit",
            help="Apply this saved edit first: a folder, or user/repo; several are allowed.",
            rich_help_panel=MODEL,
        ),
    ],
    "memory_gib": Annotated[
        float | None,
        typer.Option(
            "--memory-gib",
            help="GiB to use besides the model's weights; changes results by rounding only.",
            show_default="half of what is free",
            rich_help_panel=MODEL,
        ),
    ],
}
# Options of earlier versions that bounded memory, each in its own way.
_RETIRED = ("--max-batch-tokens", "--memory")
_JSON = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document, no prose.", rich_help_panel=OUTPUT),
]
_DEBUG = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)
]
# Panels of options that many commands have.
_PANELS = {
    **dict.fromkeys(("out", "save", "overwrite"), OUTPUT),
    **dict.fromkeys(("resume", "shard", "batch_size"), RUNNING),
}
_METAVARS: dict[object, str] = {str: "<text>", Path: "<path>", int: "<int>", float: "<float>"}


class _Command(TyperCommand):
    """A command whose flags look like flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The options and arguments of a call.

        Raises:
            InvalidRequestError: an option is one of an earlier version.
        """
        for arg in args:
            name = arg.partition("=")[0]
            if name in _RETIRED:
                raise InvalidRequestError(
                    f"There is no {name} any more: how much memory may be used is said once, for "
                    "all that a command does. Use --memory-gib, such as --memory-gib 4."
                )
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """All options and arguments."""
        parameters = _plain_types(super().get_params(ctx))
        for parameter in parameters:
            if parameter.name == "help":
                parameter.rich_help_panel = OUTPUT
        return parameters


class Commands(TyperGroup):
    """Commands in the order in which they were registered; flags look like flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options before the command's name."""
        return _plain_types(super().get_params(ctx))


def _plain_types(parameters: list[Any]) -> list[Any]:
    """Take away `<bool>` and `<list[Path]>`, as if `--json true` or `--case [1,2]` were meant."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        else:
            _show_one(parameter)
    return parameters


def _show_one(parameter: Any) -> None:
    show = getattr(parameter, "display_type_rich", None)
    if show is None:  # older releases of typer show one already
        return

    def one(ctx: Any) -> str | None:
        shown = show(ctx)
        listed = re.fullmatch(r"<list\[(.*)\]>", shown or "")
        shown = f"<{listed[1].lower()}>" if listed else shown
        return "<text>" if shown == "<str>" else shown

    parameter.display_type_rich = one


def command(
    app: typer.Typer,
    function: Callable[..., None],
    name: str,
    group: str | None = None,
    takes: Sequence[str] = ALL,
    examples: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Register `function(session, ...)`.

    Args:
        app: what it becomes a command of.
        function: its parameters are the command's, its docstring is the help. A parameter that is a
            dataclass stands for an option for each of its fields.
        name: of the command.
        group: panel of the overview it is shown in.
        takes: which of the options about the model it takes: those that mean something to it.
        examples: commands to show in its help.
        aliases: former names of options, by parameter: hidden, and still accepted.
    """
    wanted = [*inspect.signature(function).parameters.values()][1:]
    groups = {p.name: p.annotation for p in wanted if _is_group(p.annotation)}
    parameters = [_shown(inner) for parameter in wanted for inner in _options_of(parameter)]
    by_name = {parameter.name: parameter for parameter in parameters}
    renamed = {old.replace("-", "_"): new for old, new in (aliases or {}).items()}

    @functools.wraps(function)
    def wrapper(*, as_json: bool, debug: bool, **values: Any) -> None:
        del debug  # main() looks for it, since an error may come before any command
        model, device, dtype, edits, memory_gib = (values.pop(name, None) for name in ALL)
        for old, new in renamed.items():
            if (value := values.pop(old)) is not None:
                values[new] = value
        for parameter, kind in groups.items():
            given = {field.name: values.pop(field.name) for field in fields(kind)}
            values[parameter] = kind(**given)
        session = Session(model, device, dtype, edits or [], memory_gib, as_json)
        with _log_messages_shown(session):
            try:
                session.check()
                function(session, **values)
            except KeyboardInterrupt:
                print_prose(session.err, "Stopped.")
                raise typer.Exit(130) from None

    for old, new in renamed.items():
        kind = get_args(by_name[new].annotation)[0]
        option = Annotated[kind, typer.Option(f"--{old.replace('_', '-')}", hidden=True)]
        parameters.append(_keyword(old, option, None))
    parameters += [_shown(_keyword(name, _COMMON[name], None)) for name in takes]
    parameters += [
        _shown(_keyword("as_json", _JSON, False)),
        _shown(_keyword("debug", _DEBUG, False)),
    ]
    parameters.sort(key=_panel_number)
    vars(wrapper)["__signature__"] = inspect.Signature(parameters)
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    del wrapper.__wrapped__
    app.command(
        name=name,
        help=escape(inspect.getdoc(function) or ""),
        epilog=escape("\n".join(["Examples:", *examples])) if examples else None,
        rich_help_panel=group,
        cls=_Command,
    )(wrapper)


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter itself, or one for each field if it is a group of options."""
    group = parameter.annotation
    if not _is_group(group):
        return [parameter]
    annotations = get_type_hints(group, include_extras=True)
    # What a group adds to another comes first, as what it is about.
    of_group = sorted(fields(group), key=lambda field: field.name not in group.__annotations__)
    return [_keyword(f.name, annotations[f.name], _default_of(f)) for f in of_group]


def _default_of(field: Field[Any]) -> object:
    """The default of an option of a group; that of an option that must be given is empty."""
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _panel_number(parameter: inspect.Parameter) -> int:
    return _ORDER.index(get_args(parameter.annotation)[1].rich_help_panel)


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose help is shown as it is written, and whose type reads as what to type."""
    kind, info, *_ = get_args(parameter.annotation)
    info = copy.copy(info)
    if isinstance(info.show_default, str):  # a default that is settled later
        info.help, info.show_default = f"{info.help} [default: {info.show_default}]", False
    if info.help:
        info.help = escape(info.help)  # or else [l-5, l+4] is taken for markup
    inner = _inner_type(kind)
    if isinstance(info, OptionInfo):
        if inner is bool and info.default is ... and not info.param_decls:
            info.param_decls = (f"--{parameter.name.replace('_', '-')}",)  # without a --no-...
        if info.rich_help_panel is None:
            info.rich_help_panel = _PANELS.get(parameter.name)
    if info.metavar is None and not isinstance(info, ArgumentInfo) and inner in _METAVARS:
        info.metavar = _METAVARS[inner]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])


def _inner_type(kind: object) -> object:
    """`X` of `X`, `X | None`, `list[X]` and `list[X] | None`."""
    if NoneType in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return get_args(kind)[0] if get_origin(kind) is list else kind


@contextmanager
def _log_messages_shown(session: Session) -> Iterator[None]:
    """Send what the library logs inside the block to stderr, as plain sentences."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_prose(session.err, record.getMessage())

    logger, handler = logging.getLogger("factlab"), Handler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
