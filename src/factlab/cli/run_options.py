"""Options of runs that take hours: they can be killed and gone on with, and shared out."""

from typing import Annotated

import typer

ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out, if there is one. Without it, the folder must be new or "
        "empty.",
    ),
]
ShardOption = Annotated[
    str | None, typer.Option(help="Do part 2 of 5 only: 2/5. Shards may share a folder.")
]
