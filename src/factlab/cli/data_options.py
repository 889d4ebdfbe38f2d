"""Options for the records of a benchmark."""

from typing import Annotated

import typer

from factlab.cli.registration import RECORDS

_SOURCES = (
    "builtin, builtin-zsre, counterfact, multi-counterfact, zsre, hf:owner/dataset, or a file: "
    "records (.json, .jsonl, either with .gz), or facts of your own (.csv, .tsv, .toml, .json)."
)
SourceArgument = Annotated[str, typer.Argument(help=_SOURCES)]
DataOption = Annotated[str, typer.Option(help=_SOURCES, rich_help_panel=RECORDS)]
OffsetOption = Annotated[
    int, typer.Option(help="Leave out so many records first.", rich_help_panel=RECORDS)
]
LimitOption = Annotated[
    int | None,
    typer.Option(help="No more records than this.", show_default="all", rich_help_panel=RECORDS),
]
RelationOption = Annotated[
    str | None,
    typer.Option(
        help="Records of this relation, such as P36.", show_default="all", rich_help_panel=RECORDS
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="Shuffle the records with this seed before they are counted off.",
        show_default="the order of the file",
        rich_help_panel=RECORDS,
    ),
]
