"""The workbench: a local web page over the library, and pages that need no server.

The page computes nothing. What it shows are the documents that the command line prints with
`--json`, made by the same functions, in one worker that owns the model.

| module | what it does |
|---|---|
| `app` | addresses and what answers them |
| `guard` | who may ask |
| `jobs`, `worker` | what is being computed, one thing after the other |
| `requests`, `tasks` | what can be asked for, and how it is computed |
| `shelf` | saved edits, and those that are on the model |
| `serving` | starting it all |

The page itself is in `factlab.pages`.
"""
