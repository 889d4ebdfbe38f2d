"""`framed`: what the page's scripts draw, inside a notebook, and what stands there without scripts.

The page is in a frame of its own, so no style and no name of it meets those of the notebook or of
another output. It lies on top of words and a picture of the same, and is of glass until its scripts
run: where frames or scripts are taken out, as in a notebook that nobody trusted yet, those show.
"""

import html
from typing import Any, NamedTuple

from factlab.pages.inlined import view_page

# Of style.css and heatmap.js: what is around the rows of a map, and one of them.
_AROUND_PX, _ROW_PX, _NOTE_PX = 260, 20, 50
_LAYER = "grid-area: 1/1; min-width: 0"


class Drawing(NamedTuple):
    """What the page's scripts draw of a result.

    Attributes:
        document: as `results.js` reads it, ready for JSON.
        n_rows: of the maps in it.
        n_notes: how many sentences stand above them.
    """

    document: dict[str, Any]
    n_rows: int
    n_notes: int = 0


def framed(drawing: Drawing, instead: str) -> str:
    """A drawing as HTML that can stand in any page, as often as you like.

    Args:
        drawing: what to draw.
        instead: HTML that shows where frames or scripts are not allowed.
    """
    page = html.escape(view_page("frame.html", [drawing.document]))
    height = _AROUND_PX + _ROW_PX * drawing.n_rows + _NOTE_PX * drawing.n_notes
    return (
        f'<div style="display: grid"><div style="{_LAYER}; overflow: auto">{instead}</div>'
        f'<iframe title="The same, to be explored" sandbox="allow-scripts" style="{_LAYER}; '
        f'width: 100%; height: 100%; min-height: {height}px; border: 0; color-scheme: light" '
        f'srcdoc="{page}"></iframe></div>'
    )
