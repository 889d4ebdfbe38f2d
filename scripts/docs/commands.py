"""Markdown: a line `[[commands]]` becomes the reference of the command line, read off the program.

Options about the model and the output, which most commands have, are told once, at the end.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

import typer
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

from factlab.cli import build_app

_LINE = "[[commands]]"
_SHARED = ("model", "device", "dtype", "edits", "as_json", "debug", "help")
_SHARED_TITLE = "Options of most commands"
_NO_PANEL = "Options"


def reference() -> str:
    """The whole reference as Markdown: groups of commands, commands, their options."""
    root: Any = typer.main.get_command(build_app())
    lines, shared = [], {}
    panel = None
    for words, command in _commands(root, ("factlab",)):
        group = root.commands[words[1]].rich_help_panel
        if group != panel:
            panel = group
            lines += [f"## {panel}", ""]
        parameters = [each for each in command.get_params(_context(command)) if not each.hidden]
        shared |= {each.name: each for each in parameters if each.name in _SHARED}
        lines += _section(words, command, parameters)
    lines += [f"## {_SHARED_TITLE}", "", *_table([shared[name] for name in _SHARED])]
    return "\n".join(lines)


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _context(command: Any) -> Any:
    return typer.Context(command)


def _section(words: tuple[str, ...], command: Any, parameters: list[Any]) -> list[str]:
    name = " ".join(words[1:])
    lines = [f"### `{name}` {{ #{'-'.join(words[1:])} }}", "", _prose(command.help or ""), ""]
    usage = [" ".join(words), *(_argument(each) for each in parameters if not _is_option(each))]
    usage += [f"{each.opts[0]} {_type(each)}" for each in parameters if _must(each)]
    lines += ["```text", " ".join([*usage, "[options]"]), "```", ""]
    mine = [each for each in parameters if each.name not in _SHARED]
    for panel in dict.fromkeys(each.rich_help_panel for each in mine):
        lines += _table([each for each in mine if each.rich_help_panel == panel], panel)
    others = [f"`{each.opts[0]}`" for each in parameters if each.name in _SHARED]
    if others:
        anchor = _SHARED_TITLE.lower().replace(" ", "-")
        lines += [f"Besides: {', '.join(others)} ([explained below](#{anchor})).", ""]
    if command.epilog:
        examples = command.epilog.replace("\\[", "[").split("\n", 1)[1]
        commands = [each if each.startswith(" ") else f"$ {each}" for each in examples.splitlines()]
        lines += ["```console", *commands, "```", ""]
    return lines


def _is_option(parameter: Any) -> bool:
    return parameter.opts[0].startswith("-")


def _must(parameter: Any) -> bool:
    return _is_option(parameter) and parameter.required


def _argument(parameter: Any) -> str:
    name = parameter.name.upper()
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def _type(parameter: Any) -> str:
    return parameter.display_type_rich(None) or "" if not parameter.is_flag else ""


def _table(parameters: list[Any], panel: str | None = None) -> list[str]:
    lines = [f"| {panel or _NO_PANEL} | |", "|---|---|"]
    for each in parameters:
        names = each.opts + each.secondary_opts if _is_option(each) else [_argument(each)]
        kind = _type(each) if _is_option(each) else ""
        shown = ", ".join(f"`{name}`" for name in names)
        if kind:
            shown += f" <code>{html.escape(kind).replace('|', '&#124;')}</code>"
        text = _prose(each.help or "")
        if _has_default(each):
            text += f" [default: {each.default}]"
        lines.append(f"| {shown} | {text} |")
    return [*lines, ""]


def _has_default(parameter: Any) -> bool:
    return bool(parameter.show_default and parameter.default not in (None, False, (), []))


def _prose(text: str) -> str:
    """Text of a help, with nothing in it that Markdown would take for a sign of its own."""
    text = text.replace("\\[", "[")
    return re.sub(r"([\\`*_<>\[\]|{}$])", r"\\\1", text).replace("\n", " ")


class _Commands(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Replace the line, before anything is read as Markdown."""
        if _LINE not in lines:
            return lines
        place = lines.index(_LINE)
        return [*lines[:place], *reference().splitlines(), *lines[place + 1 :]]


class CommandsExtension(Extension):
    """The line and what stands for it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Called by Markdown; before code blocks are taken out (priority 25 and above)."""
        md.preprocessors.register(_Commands(md), "commands", 100)


def makeExtension(**settings: Any) -> CommandsExtension:  # noqa: N802
    """Called by Markdown."""
    return CommandsExtension(**settings)
