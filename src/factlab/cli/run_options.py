"""Options of what takes long: it can be killed and gone on with, shared out, and is not lost."""

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
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file that is there already.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="Do part 2 of 5 only: 2/5. Shards may share a folder.")
]
