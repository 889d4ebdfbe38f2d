"""Sentences and numbers on the terminal: lines end between words."""

import os

from rich.cells import cell_len
from rich.console import Console


def print_prose(console: Console, text: str) -> None:
    """Print sentences: lines end between words; a path, a name or a number stays in one piece.

    Where nobody reads along, as in a file or a pipe, a sentence stays on one line, unless COLUMNS
    says how long lines may be.
    """
    if console.is_terminal or "COLUMNS" in os.environ:
        text = "\n".join(_wrapped(line, console.width) for line in text.split("\n"))
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    words = line.split(" ")
    lines = [words[0]]
    for word in words[1:]:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
