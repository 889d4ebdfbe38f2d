"""Measure: what people make of texts, in a study like that of the ROME paper's appendix J.

`make_human_study` writes one page for raters and a key for the organiser; `score_human_study` joins
the key with what raters hand back.

| module | what it does |
|---|---|
| `configs` | how large a study is |
| `passages` | which texts of which runs are shown |
| `plan` | who sees what, in which order |
| `key` | the study as the organiser keeps it |
| `page` | the page for raters |
| `make` | all of that |
| `answers` | what raters hand back |
| `agreement` | whether raters agree |
| `scores` | shares, ranks and wins |
| `result`, `report_page`, `plot` | what comes out, in words, tables and a picture |
| `static/` | the page: HTML, CSS and JavaScript as a browser takes them |
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
