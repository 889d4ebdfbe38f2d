"""Markdown: `$…$` and `$$…$$` become MathML while the site is built; no reader needs a script.

What stands between backticks is left alone. A dollar sign that begins or ends with a space is one.
"""

import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

_DISPLAY = r"\$\$(?P<tex>[^$]+)\$\$"
_INLINE = r"(?<![\\$\w])\$(?P<tex>[^\s$](?:[^$]*[^\s$\\])?)\$(?![\w$])"
# Before escapes (180) and after what stands between backticks (190).
_PRIORITY = 185
# What browsers do not know of the full MathML; the letter itself must be written instead.
_NO_LONGER = re.compile(r'mathvariant="(?!normal)[\w-]+"')


class _Formula(InlineProcessor):
    """One kind of formula, of a line of its own or within one."""

    def __init__(self, pattern: str, display: str, md: Markdown) -> None:
        """`display`: as MathML calls it, `block` or `inline`."""
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:  # noqa: ARG002, N802
        """The formula as MathML, which is stored as it is."""
        text = convert(m["tex"].strip(), display=self.display)
        if _NO_LONGER.search(text) or "<mo />" in text:
            raise ValueError(f"Browsers do not show this formula as it is meant: {m['tex']}")
        ElementTree.fromstring(text)  # noqa: S314 - made one line above; raises where TeX was not understood
        if self.display == "block":
            text = f'<span class="formula">{text}</span>'
        return self.md.htmlStash.store(text), m.start(0), m.end(0)


class MathmlExtension(Extension):
    """The two kinds."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Called by Markdown."""
        md.inlinePatterns.register(_Formula(_DISPLAY, "block", md), "formula", _PRIORITY + 1)
        md.inlinePatterns.register(_Formula(_INLINE, "inline", md), "formula-inline", _PRIORITY)


def makeExtension(**settings: Any) -> MathmlExtension:  # noqa: N802
    """Called by Markdown."""
    return MathmlExtension(**settings)
