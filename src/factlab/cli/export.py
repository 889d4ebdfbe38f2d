"""`factlab export`: take an edit to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import EDIT, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, nearest

_KINDS = ("peft", "checkpoint")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        export,
        "export",
        group=EDIT,
        examples=(
            "factlab export eiffel-in-rome --to peft --out adapter",
            "factlab export eiffel-in-rome --to checkpoint --out edited-model",
        ),
    )


def export(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="The folder that 'factlab edit --out' wrote.")],
    to: Annotated[str, typer.Option(help="peft (a LoRA adapter) or checkpoint (a whole model).")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    rank: Annotated[
        int | None, typer.Option(help="Largest rank of an adapter; as large as needed by default.")
    ] = None,
) -> None:
    """Write an edit as a LoRA adapter for peft, or merged into its model for transformers.

    What --edit names goes in too, before it.
    """
    from factlab.destinations import check_new_folder
    from factlab.editing.shipping.folders import check_saved_edit

    if to not in _KINDS:
        raise InvalidRequestError(
            f"Cannot export to '{to}'.{nearest(to, _KINDS)} Choose from {', '.join(_KINDS)}."
        )
    if to == "checkpoint" and rank is not None:
        raise InvalidRequestError("--rank is for --to peft; a checkpoint holds the exact weights.")
    check_new_folder(out)
    check_saved_edit(folder)
    if rank is not None and rank < 1:
        raise InvalidRequestError(f"--rank {rank} must be at least 1.")
    from factlab.editing.combined import combine
    from factlab.editing.edit import Edit
    from factlab.models import bundled

    edit = Edit.load(folder)
    if to == "checkpoint":
        lm = session.load_model()
        edit.merge_into(lm, out)
        session.say(f"Saved {lm.name} with the edit in {out}. Use it: factlab ask … --model {out}")
        session.emit({"to": to, "folder": str(out), "model": lm.name})
        return
    made = combine([*map(Edit.load, session.edits), edit]).to_peft(out, rank)
    rows = [[m.module, str(m.rank), f"{m.kept_energy:.6%}"] for m in made.modules]
    session.say(table(["module", "rank", "energy kept"], rows, right={1, 2}))
    session.say(
        f"Saved in {out}. Use it: peft.PeftModel.from_pretrained(model, '{out}'), where model is "
        f"{edit.base.name}."
    )
    if edit.base.name == bundled.NAME:
        session.say(
            f"Its weights are in {bundled.bundled_place()}, for transformers' from_pretrained. The "
            f"adapter names {bundled.HUB_ID}, which programs find by themselves: the same model "
            "before its weights were rounded to 4 bits, so that figures differ a little."
        )
    modules = [
        {"module": m.module, "rank": m.rank, "kept_energy": m.kept_energy} for m in made.modules
    ]
    session.emit({"to": to, "folder": str(out), "modules": modules})
