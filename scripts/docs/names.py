"""Markdown: a line `[[names factlab.editing]]` becomes the reference of that namespace.

The names are those of the namespace's stub, or of the module where it has none, so that they are
written once; `[[names factlab.errors *Error]]` takes some of them. Each is described where it is at
home; `[[names factlab]]` lists what is on top in a table that leads there, and describes what is
nowhere else.
"""

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

_LINE = re.compile(r"\[\[names ([\w.]+)(?: ([\w*]+))?\]\]")
_SRC = Path(__file__).parent.parent.parent / "src"
_TOP = "factlab"
# As one meets them; what is in none of these comes last.
_ORDER = (
    "models", "tracing", "neurons", "editing", "evaluation", "human", "data", "stats", "hooks",
    "errors",
)  # fmt: skip
_KINDS = ("Functions", "Classes", "Settings", "Requests", "Tables")


@cache
def _package() -> Any:
    return griffe.load(_TOP, search_paths=[_SRC], resolve_aliases=True)


def public_names(path: str) -> list[str]:
    """The public names of a namespace, in the order of its stub."""
    module = _package() if path == _TOP else _package()[path.removeprefix(f"{_TOP}.")]
    stub = module.filepath.with_suffix(".pyi")
    imported = re.findall(r"import \w+ as (\w+)", stub.read_text()) if stub.is_file() else []
    return imported or [
        name
        for name, member in module.members.items()
        if not member.is_alias
        and (member.is_class or member.is_function)
        and not name.startswith("_")
    ]


def namespaces() -> list[str]:
    """The public namespaces, as one meets them."""
    paths = [f"{_TOP}.{n}" for n in public_names(_TOP) if _package()[n].is_module]
    return sorted(paths, key=_place)


def _place(path: str) -> int:
    name = path.split(".")[1]
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _homes() -> dict[str, str]:
    return {name: space for space in namespaces() for name in public_names(space)}


def _kind(name: str) -> str:
    if name.isupper():
        return "Tables"
    if name.endswith("Config"):
        return "Settings"
    if name.endswith("Request"):
        return "Requests"
    return "Classes" if name[0].isupper() else "Functions"


def _described(path: str, names: list[str]) -> list[str]:
    lines: list[str] = []
    for kind in _KINDS:
        of_kind = [name for name in names if _kind(name) == kind]
        if of_kind:
            lines += [f"## {kind}", ""]
        for name in of_kind:
            lines += [f"::: {path}.{name}", ""]
    return lines


def reference(path: str, pattern: str = "*") -> str:
    """The reference of a namespace as Markdown, of the names that fit a pattern."""
    names = [name for name in public_names(path) if fnmatchcase(name, pattern)]
    if path != _TOP:
        return "\n".join(_described(path, names))
    homes = _homes()
    lines = ["| name | |", "|---|---|"]
    paths = [f"{homes.get(n, _TOP)}.{n}" for n in names if not _package()[n].is_module]
    for home in sorted(paths, key=_place):
        name = home.rpartition(".")[2]
        lines.append(f"| [`fl.{name}`][{home}] | {_first_sentence(name)} |")
    lines += ["", "| namespace | |", "|---|---|"]
    for space in namespaces():
        page = space.removeprefix(f"{_TOP}.")
        about = _first_sentence(page)
        lines.append(f"| [`fl.{page}`]({page}.md) | {about} |")
    alone = [name for name in names if name not in homes and not _package()[name].is_module]
    return "\n".join([*lines, "", *_described(_TOP, alone)])


def _first_sentence(name: str) -> str:
    described: Any = _package()[name]
    described = described.final_target if described.is_alias else described
    text = described.docstring.value if described.docstring else ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


class _Names(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Replace such lines, before anything is read as Markdown."""
        replaced: list[str] = []
        for line in lines:
            match = _LINE.fullmatch(line)
            replaced += reference(match[1], match[2] or "*").splitlines() if match else [line]
        return replaced


class NamesExtension(Extension):
    """The line and what stands for it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Called by Markdown."""
        md.preprocessors.register(_Names(md), "names", 100)


def makeExtension(**settings: Any) -> NamesExtension:  # noqa: N802
    """Called by Markdown."""
    return NamesExtension(**settings)
