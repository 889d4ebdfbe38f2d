"""Where commands print: texts that came from elsewhere are shown, and never obeyed.

An edit, a record or a model may come from anybody. A control character in its texts is written as
an escape; so is what the terminal or pipe has no letters for, since by then the work is done, and a
table that cannot be printed would lose it.
"""

import codecs
import io
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# All but tab and line break; and what turns the direction of writing round.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ERRORS = "factlab-escapes"
# Signs of factlab's own, where they cannot be written.
_PLAIN = {
    "×": "x", "—": "-", "–": "-", "…": "...", "±": "+-", "→": "->", "←": "<-", "’": "'", "“": '"',
    "”": '"', "✓": "+", "✗": "x", "·": ".", "↵": "\\n", "␣": "_", "‖": "||", "≥": ">=", "≤": "<=",
}  # fmt: skip


def visible(text: str) -> str:
    """A text whose control characters are written as escapes, which Python's literals know."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def json_line(document: dict[str, Any]) -> str:
    """A document as one line of JSON that standard output can take."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "").replace("_", "")
    text = json.dumps(document, ensure_ascii=not encoding.startswith("utf"), allow_nan=False)
    # JSON escapes what is below a space by itself.
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


class Terminal(Console):
    """A console of rich that writes the control characters of texts as escapes."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What to write; rich's own control codes are marked as such, and stay."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def prepare_streams() -> None:
    """Let standard output and error write what they have no letters for as escapes."""
    codecs.register_error(_ERRORS, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_written, signs)), error.end


def _written(sign: str) -> str:
    if "\u2500" <= sign <= "\u259f":  # lines and blocks
        return "#"
    if "\u2800" <= sign <= "\u28ff":  # what turns round while one waits
        return "."
    return _PLAIN.get(sign, ascii(sign)[1:-1])
