"""Options that several commands have: alone, or in groups that a command takes as one parameter.

A group is a dataclass. `registration` makes an option of each of its fields, and hands the command
the group with what was given.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.registration import CORRUPTION, MEASURED, METHOD, RECORDS, RESTORED
from factlab.cli.session import validated
from factlab.settings import read_settings

if TYPE_CHECKING:
    from factlab.data.selection import RecordsRequest
    from factlab.editing.method_choice import MethodRequest
    from factlab.tracing.configs import TraceConfig

# -- running: what takes long can be killed and gone on with, shared out, and is not lost ----------

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
PoolingOption = Annotated[
    str,
    typer.Option(
        help="What counts once in groups of several tokens: facts, each fact's tokens averaged "
        "first, or tokens, as in the paper's notebook."
    ),
]

# -- records of a benchmark ------------------------------------------------------------------------

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
ShuffleOption = Annotated[
    int | None,
    typer.Option(
        help="Shuffle the records with this seed before they are counted off.",
        show_default="the order of the file",
        rich_help_panel=RECORDS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which part of some records."""

    offset: OffsetOption = 0
    relation: RelationOption = None
    seed: ShuffleOption = None

    def of(
        self,
        source: str,
        limit: int | None,
        references: str | None = None,
        one_per_subject: bool = False,
    ) -> "RecordsRequest":
        """That part of a source.

        Raises:
            InvalidRequestError: an option makes no sense.
        """
        from factlab.data.selection import RecordsRequest

        return validated(
            RecordsRequest, source=source, offset=self.offset, limit=limit,
            relation=self.relation, seed=self.seed, references=references,
            one_per_subject=one_per_subject,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecordOptions(PartOptions):
    """The same, of which every subject may be left one record."""

    one_per_subject: Annotated[
        bool,
        typer.Option(
            "--one-per-subject",
            help="Of each subject its first record only, before --offset and --limit are counted "
            "off.",
            rich_help_panel=RECORDS,
        ),
    ] = False


ReferencesOption = Annotated[
    str | None,
    typer.Option(
        help="Texts to compare written ones with: builtin, attribute-snippets (900 MB), or a file.",
        show_default="those that come with the data",
        rich_help_panel=MEASURED,
    ),
]
TextSeedOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**32 - 1,
        help="Seed of the texts that are written.",
        rich_help_panel=MEASURED,
    ),
]

# -- settings --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a file, and of assignments, which win over it."""

    settings: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with more settings, named as 'factlab methods --json' does. The string "
            '"none" stands for no value.',
            rich_help_panel=METHOD,
        ),
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="<name=value>",
            help="One more setting, such as value.steps=40 or contexts.bare_weight=none; wins over "
            "--settings. May be given several times.",
            rich_help_panel=METHOD,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """All of them by name.

        Raises:
            StorageError: the file is missing, or not TOML.
            InvalidRequestError: an assignment is not understood.
        """
        return read_settings(self.settings, self.assignments or ())


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """Where a method edits and with which settings; the editor, if it is a trained one."""

    editor: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained editor, for --method mend or ke; see 'factlab train'.",
            rich_help_panel=METHOD,
        ),
    ] = None
    layer: Annotated[
        int | None,
        typer.Option(
            help="Layer to edit, from 0.",
            show_default="the model's preset, or by causal traces",
            rich_help_panel=METHOD,
        ),
    ] = None

    def of(self, name: str, erase: bool = False, chat: bool = False) -> "MethodRequest":
        """The method of a name with these settings.

        Raises:
            StorageError: the file of settings is missing, or not TOML.
            InvalidRequestError: an assignment is not understood.
        """
        from factlab.editing.method_choice import MethodRequest

        return MethodRequest(
            name=name,
            editor=self.editor,
            layer=self.layer,
            erase=erase,
            chat=chat,
            settings=self.values(),
        )


# -- tracing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """How to trace."""

    answer_rule: Annotated[
        str | None,
        typer.Option(
            help="Follow the answer's first_token, or the whole of it: product or per_token.",
            show_default="first_token",
        ),
    ] = None
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="State to restore: block, mlp or attn; may be given several times.",
            show_default="all three",
            rich_help_panel=RESTORED,
        ),
    ] = None
    severed: Annotated[
        list[str] | None,
        typer.Option(
            help="Restore hidden states with this path cut: mlp or attn; may be given twice.",
            rich_help_panel=RESTORED,
        ),
    ] = None
    noise: Annotated[
        str | None,
        typer.Option(
            help="3s (standard deviations), 0.35 (level), uniform:3s, multivariate, student:5 or "
            "subject:Another Name; with ',replace', ',extra=1', ',over=vocabulary' behind it.",
            show_default="3s",
            rich_help_panel=CORRUPTION,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            help="Noise samples to average over.", show_default="10", rich_help_panel=CORRUPTION
        ),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(
            help="Layers of MLP or attention outputs to restore together.",
            show_default="10, or half of the model if that is less",
            rich_help_panel=RESTORED,
        ),
    ] = None
    window_convention: Annotated[
        str | None,
        typer.Option(
            help="code or paper: a window of 10 is [l-5, l+4] in the paper's code, [l-4, l+5] in "
            "its text.",
            show_default="code",
            rich_help_panel=RESTORED,
        ),
    ] = None
    tokens: Annotated[
        str | None,
        typer.Option(
            help="all, last-subject, or positions such as 0,3-5.",
            show_default="all",
            rich_help_panel=RESTORED,
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers such as 0-9,12 or 0-29:3.", show_default="all", rich_help_panel=RESTORED
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            help="exact: run every restoration. gradient: estimate all from one gradient.",
            show_default="exact",
            rich_help_panel=RESTORED,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise.", show_default="0", rich_help_panel=CORRUPTION),
    ] = None

    severed_noise: Annotated[
        str | None,
        typer.Option(
            help="Noise where a path is cut: the same as in the corrupted run, or drawn anew as in "
            "the paper's code.",
            show_default="same",
            rich_help_panel=CORRUPTION,
        ),
    ] = None

    def config(self, tokens: str | None = None) -> "TraceConfig":
        """The config that these options ask for.

        Args:
            tokens: to trace where no option says so.

        Raises:
            InvalidRequestError: an option makes no sense, alone or with another.
        """
        from factlab.tracing.configs import TraceConfig, kinds_with_severed

        return validated(
            TraceConfig,
            samples=self.samples,
            window=self.window,
            window_convention=self.window_convention,
            corruption=self.noise,
            kinds=kinds_with_severed(self.kind or (), self.severed or ()),
            method=self.method,
            answer=self.answer_rule,
            positions=self.tokens or tokens,
            layers=self.layers,
            seed=self.seed,
            severed_noise=self.severed_noise,
        )
