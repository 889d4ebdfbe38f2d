"""`factlab edit`: make the model say something else."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.options import MethodSettings
from factlab.cli.registration import EDIT, FACT, MANY, METHOD, command
from factlab.cli.session import Session, check_readable
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from factlab.editing.background import Background
    from factlab.editing.configs import Mode
    from factlab.editing.edit_run import EditRun
    from factlab.editing.method_choice import MethodChoice
    from factlab.editing.one_fact import TopTokens
    from factlab.editing.values.folder import SavedValues
    from factlab.facts import Fact
    from factlab.models.language_model import LanguageModel

_ROWS_SHOWN = 20


_Method = Annotated[
    str | None,
    typer.Option(
        help="See 'factlab methods'.",
        show_default="rome; memit for many facts",
        rich_help_panel=METHOD,
    ),
]
_Erase = Annotated[
    bool,
    typer.Option(
        help="Make the true answer improbable; needs no --target.", rich_help_panel=METHOD
    ),
]
_Chat = Annotated[
    bool,
    typer.Option(
        "--chat",
        help="Edit the fact in the model's chat template as well, and ask it there too.",
        rich_help_panel=METHOD,
    ),
]
_Stats = Annotated[
    Path | None,
    typer.Option(
        help="Statistics saved by 'factlab stats --out'.",
        show_default="collected, once for each model",
        rich_help_panel=METHOD,
    ),
]
_Values = Annotated[
    Path | None,
    typer.Option(
        help="Values that 'factlab values --out' optimised.",
        show_default="optimised now, or from the cache",
        rich_help_panel=METHOD,
    ),
]
_Out = Annotated[
    Path | None, typer.Option(help="Save the edit in this folder; with --each one inside each.")
]


@dataclass(frozen=True, kw_only=True)
class _OneFact:
    """One fact, by its parts."""

    template: Annotated[
        str | None,
        typer.Argument(help="A sentence with {} where the subject goes, or a prompt without one."),
    ] = None
    subject: Annotated[
        str | None,
        typer.Option(
            help="What the fact is about; not for a prompt without {}.", rich_help_panel=FACT
        ),
    ] = None
    target: Annotated[
        str | None, typer.Option(help="What the model should say.", rich_help_panel=FACT)
    ] = None
    true: Annotated[
        str | None, typer.Option(help="What is true, to compare with.", rich_help_panel=FACT)
    ] = None
    joint: Annotated[
        str | None,
        typer.Option(
            help="What goes between prompt and target: space or none. By default a space where a "
            "writer would put one.",
            rich_help_panel=FACT,
        ),
    ] = None

    def fact(self, erase: bool) -> "Fact":
        """The fact of these parts.

        Raises:
            InvalidRequestError: a part is missing, or wrong.
        """
        from factlab.facts import Fact, has_slot, joint_named

        needed = {"a template": self.template}
        if self.template is None or has_slot(self.template):
            needed["--subject"] = self.subject
        if not erase:
            needed["--target"] = self.target
        missing = [name for name, value in needed.items() if value is None]
        if self.template is None or missing:
            raise InvalidRequestError(
                f"Missing: {', '.join(missing)}. Describe one fact, or give a file with --facts."
            )
        joint = joint_named(self.joint)
        return Fact(self.template, self.subject or "", self.target, self.true, joint)


@dataclass(frozen=True, kw_only=True)
class _ManyFacts:
    """Facts of a file, and how they go together."""

    facts: Annotated[
        Path | None,
        typer.Option(
            help="Many facts instead: .toml, .jsonl, .json, .csv or .tsv with template, "
            "subject, target_new, target_true.",
            rich_help_panel=MANY,
        ),
    ] = None
    each: Annotated[
        bool, typer.Option(help="One edit per fact, each alone.", rich_help_panel=MANY)
    ] = False
    together: Annotated[
        bool, typer.Option(help="One edit with all facts (the default).", rich_help_panel=MANY)
    ] = False
    sequence: Annotated[
        bool, typer.Option(help="One edit on top of the other.", rich_help_panel=MANY)
    ] = False
    turn: Annotated[
        int, typer.Option(min=1, help="With --sequence: facts of one edit.", rich_help_panel=MANY)
    ] = 1

    def mode(self) -> "Mode":
        """How they go together.

        Raises:
            InvalidRequestError: several ways are asked for, or one that needs many facts.
        """
        if self.each + self.together + self.sequence > 1:
            raise InvalidRequestError("Choose one of --each, --together and --sequence.")
        if self.facts is None and (self.together or self.sequence):
            raise InvalidRequestError("--together and --sequence are for many facts: give --facts.")
        if self.turn != 1 and not self.sequence:
            raise InvalidRequestError("--turn is for edits on top of each other: add --sequence.")
        if self.sequence:
            return "sequence"
        return "each" if self.each or self.facts is None else "together"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        edit,
        "edit",
        group=EDIT,
        examples=(
            'factlab edit "{} is located in the city of" --subject "The Eiffel Tower" \\\n'
            "      --target Rome --out eiffel-in-rome",
            "factlab edit --facts facts.csv --method memit --out many",
            "factlab edit --facts facts.csv --together --values values",
            'factlab edit "{} is in" --subject Rome --target Spain --set value.steps=40',
            'factlab edit "Who wrote Hamlet? Answer:" --target Marlowe --method ultraedit',
            'factlab edit "{} is in" --subject Rome --target Spain --chat --out spain',
        ),
    )


def edit(
    session: Session,
    *,
    one: _OneFact,
    many: _ManyFacts,
    method: _Method = None,
    more: MethodSettings,
    erase: _Erase = False,
    chat: _Chat = False,
    stats: _Stats = None,
    values: _Values = None,
    out: _Out = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an edit that is there.")] = False,
) -> None:
    """Edit facts, show the effect, and save the edit. The model's files stay as they are."""
    from factlab.editing.shipping.folders import check_edits_destination

    mode, has_many = many.mode(), many.facts is not None
    wanted = _facts(one, many.facts, erase)
    name = method or ("memit" if has_many and mode != "each" else "rome")
    chosen = more.of(name, erase, chat).chosen()
    chosen.method.check_subjects(wanted)
    chosen.method.check_turn(many.turn)
    if out is not None:
        check_edits_destination(out, mode == "each" and has_many, overwrite)
    if stats is not None:
        check_readable(stats)
    saved = None if values is None else _saved_values(session, values, mode, wanted, chosen)
    from factlab.editing.background import Background
    from factlab.stats.expert_moments import load_moment

    background = Background.of([load_moment(stats)] if stats is not None else [])
    if saved is not None:
        background.values = saved
    lm = session.load_model()
    if saved is not None:
        saved.check_model(lm)
    if has_many:
        _edit_many(session, lm, wanted, mode, many.turn, chosen, background, out, overwrite)
    else:
        _edit_one(session, lm, wanted[0], chosen, background, out, overwrite)


def _facts(one: _OneFact, file: Path | None, erase: bool) -> "Sequence[Fact]":
    from factlab.data.fact_files import load_facts

    if file is None:
        return [one.fact(erase)]
    if one != _OneFact():
        raise InvalidRequestError("Give one fact by its options, or many by --facts, not both.")
    return load_facts(file)


def _saved_values(
    session: Session,
    folder: Path,
    mode: "Mode",
    facts: "Sequence[Fact]",
    chosen: "MethodChoice",
) -> "SavedValues":
    """Values of a folder, if these facts can be written with them."""
    from factlab.editing.values.folder import load_values

    if mode == "sequence" or session.edits:
        raise InvalidRequestError(
            "Values of a folder are of the model without edits: --values does not go with "
            f"{'--sequence' if mode == 'sequence' else '--edit'}."
        )
    saved = load_values(folder)
    saved.check(facts, chosen.method.name, chosen.config)
    return saved


# -- doing it ---------------------------------------------------------------------------------


def _edit_one(
    session: Session,
    lm: "LanguageModel",
    fact: "Fact",
    chosen: "MethodChoice",
    background: "Background",
    out: Path | None,
    overwrite: bool,
) -> None:
    from factlab.editing.one_fact import edit_fact

    with session.progress() as report:
        made = edit_fact(lm, fact, chosen.method, chosen.config, background, report)
    if out is not None:
        made.edit.save(out, overwrite)
    if made.already_said is not None:
        session.say(f"Note: the model said {made.already_said!r} already.")
    session.say(f"{fact.prompt} …")
    session.say(_next_tokens(made.before, made.after))
    if made.before_in_chat:
        session.say("The same in the chat template:")
        session.say(_next_tokens(made.before_in_chat, made.after_in_chat))
    session.say(made.changes_in_words())
    _say_where(session, out, fact.prompt)
    session.emit(made.to_json() | {"folder": str(out) if out is not None else None})


def _next_tokens(before: "TopTokens", after: "TopTokens") -> "RenderableType":
    rows = [
        [f"{was!r} {prob_was:.3f}", f"{now!r} {prob_now:.3f}"]
        for (was, prob_was), (now, prob_now) in zip(before, after, strict=True)
    ]
    return table(["before", "after"], rows)


def _edit_many(
    session: Session,
    lm: "LanguageModel",
    facts: "Sequence[Fact]",
    mode: "Mode",
    turn: int,
    chosen: "MethodChoice",
    background: "Background",
    out: Path | None,
    overwrite: bool,
) -> None:
    from factlab.editing.runs import edit_each, edit_sequence, edit_together

    in_turns = partial(edit_sequence, turn=turn)
    do = {"each": edit_each, "together": edit_together, "sequence": in_turns}[mode]
    with session.progress() as report:
        run = do(lm, facts, chosen.method, chosen.config, background, report)
    folders = [] if out is None else run.save(out, overwrite)
    _show_run(session, run, out)
    session.emit(run.to_json() | {"folders": [str(folder) for folder in folders]})


def _show_run(session: Session, run: "EditRun", out: Path | None) -> None:
    rows = [
        [fact.prompt, fact.target_new or "—", before.said, at_end.said, _prob(at_end.new_prob)]
        for fact, before, at_end in zip(run.facts, run.before, run.at_end, strict=True)
    ]
    headings = ["prompt", "new target", "said before", "says now", "P(new)"]
    session.say(table(headings, rows[:_ROWS_SHOWN], right={4}))
    if len(rows) > _ROWS_SHOWN:
        session.say(f"… and {len(rows) - _ROWS_SHOWN} more.")
    total = len(run.facts)
    if any(fact.target_new for fact in run.facts):
        session.say(f"Says the new target: {run.n_say_new} of {counted(total, 'fact')}.")
    if run.mode == "sequence":
        session.say(f"Right after its own edit: {run.n_said_new_right_after} of {total}.")
    _say_where(session, out if run.mode != "each" else None, run.facts[0].prompt, out)


def _say_where(session: Session, edit: Path | None, prompt: str, out: Path | None = None) -> None:
    """Where the edit is kept and how it is used, or that it is gone and how to keep it."""
    if edit is not None:
        model = ["--model", session.model] if session.model else []
        edits = [part for folder in [*session.edits, edit] for part in ("--edit", str(folder))]
        session.say(f"Saved in {edit}. Use it:")
        session.say_command(shlex.join(["factlab", "ask", prompt, *edits, *model]))
    elif out is not None:
        session.say(f"Saved in {out}, one folder for each fact.")
    else:
        session.say(
            "Nothing was kept: the model's files are as they were, and the edit is gone. "
            "Give --out FOLDER to save it."
        )


def _prob(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"
