"""The workbench's page: its files, and how they are put into one that needs no server.

Results draw themselves in a notebook by the same scripts, so these are below all results.

| module | what it does |
|---|---|
| `inlined` | a page with its files and documents inside it |
| `frames` | such a page inside a notebook |
| `static/` | HTML, CSS and JavaScript as a browser takes them |
"""
