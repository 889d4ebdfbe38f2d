"""`factlab edit`: make the model say something else."""

from pathlib import Path
from typing import Annotated, Any

import typer

from factlab.cli.session import Session, command, validated
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, nearest


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, edit, "edit")


def edit(
    session: Session,
    template: Annotated[str, typer.Argument(help="A sentence with {} where the subject goes.")],
    subject: Annotated[str, typer.Option(help="What the fact is about.")],
    target: Annotated[str, typer.Option(help="What the model should say.")],
    true: Annotated[str | None, typer.Option(help="What is true, to compare with.")] = None,
    method: Annotated[str, typer.Option(help="Editing method.")] = "rome",
    layer: Annotated[int | None, typer.Option(help="Layer to edit, from 0.")] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Statistics saved by 'factlab stats --out'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the edit in this folder.")] = None,
) -> None:
    """Edit one fact, show the effect, and save the edit. The model's files stay as they are."""
    from factlab.editing.edit import check_destination
    from factlab.editing.methods import METHODS
    from factlab.editing.rome import RomeConfig
    from factlab.facts import Fact
    from factlab.stats.moments import SecondMoment
    from factlab.storage import check_writable

    fact = Fact(template, subject, target, true)
    if method not in METHODS:
        raise InvalidRequestError(
            f"Unknown method '{method}'.{nearest(method, METHODS)} "
            f"Choose from {', '.join(METHODS)}."
        )
    config = validated(RomeConfig, layer=layer)
    if out is not None:
        check_destination(out)
        check_writable(out, is_folder=True)
    moment = SecondMoment.load(stats) if stats is not None else None
    lm = session.load_model()
    answers_before = lm.top_tokens(fact.prompt, 3)
    with session.progress() as report:
        made = METHODS[method](lm, fact, config, moment, report)
    with made.applied(lm):
        answers_after = lm.top_tokens(fact.prompt, 3)
    if out is not None:
        made.save(out)

    said = answers_before[0][0].strip()
    document: dict[str, Any] = {
        "prompt": fact.prompt,
        "before": [{"token": t, "prob": p} for t, p in answers_before],
        "after": [{"token": t, "prob": p} for t, p in answers_after],
        "already_said": bool(said) and target.strip().startswith(said),
        "folder": str(out) if out is not None else None,
        "edit": {"method": made.method, "config": made.config, "diagnostics": made.diagnostics},
    }
    if document["already_said"]:
        session.say(f"Note: the model said {said!r} already.")
    rows = [
        [f"{a[0]!r} {a[1]:.3f}", f"{b[0]!r} {b[1]:.3f}"]
        for a, b in zip(answers_before, answers_after, strict=True)
    ]
    session.say(f"{fact.prompt} …")
    session.say(table(["before", "after"], rows))
    diagnostics = made.diagnostics
    session.say(
        f"Layer {diagnostics['layer']} ({diagnostics['layer_source']}), "
        f"{len(diagnostics['loss'])} steps, a change of "
        f"{diagnostics['update_norm'] / diagnostics['weight_norm']:.1%} of the weight's norm."
    )
    if out is not None:
        model = f" --model {session.model}" if session.model else ""
        session.say(f"Saved in {out}. Use it: factlab ask '{fact.prompt}' --edit {out}{model}")
    session.emit(document)
