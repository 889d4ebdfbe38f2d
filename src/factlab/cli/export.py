"""`factlab export`: take an edit to other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.registration import EDIT, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, nearest

if TYPE_CHECKING:
    from factlab.editing.edit import Edit
    from factlab.editing.shipping.thinned import ExportedAdapter

_KINDS = ("peft", "gguf", "checkpoint")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        export,
        "export",
        group=EDIT,
        aliases={"rank": "max_rank"},
        examples=(
            "factlab export eiffel-in-rome --to peft --out adapter",
            "factlab export thousand-facts --to peft --max-rank 256 --out adapter",
            "factlab export eiffel-in-rome --to gguf --out eiffel-in-rome.gguf",
            "factlab export eiffel-in-rome --to checkpoint --out edited-model",
        ),
    )


def export(
    session: Session,
    folder: Annotated[
        Path, typer.Argument(help="Folder that 'factlab edit --out' wrote, or user/repo.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="peft (a LoRA adapter), gguf (the same for llama.cpp) or checkpoint (a whole "
            "model)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder to write; a new file for gguf.")],
    max_rank: Annotated[
        int | None,
        typer.Option(
            help="Largest rank of an adapter, such as 256 for vLLM; what is lost is said.",
            show_default="as large as needed",
        ),
    ] = None,
    every_layer: Annotated[
        bool,
        typer.Option(
            help="Of peft: write zeros for the layers that are not edited, which TGI needs."
        ),
    ] = False,
) -> None:
    """Write an edit as a LoRA adapter for peft or llama.cpp, or merged for transformers.

    What --edit names goes in too, before it. The page on serving edits says what each program
    takes.
    """
    _check(to, out, max_rank, every_layer)
    from factlab.editing.shipping.hub import edit_place

    place = edit_place(folder.as_posix())
    from factlab.editing.combined import combine
    from factlab.editing.edit import Edit

    edit = Edit.load(place)
    if to == "checkpoint":
        lm = session.load_model()
        edit.merge_into(lm, out)
        session.say(f"Saved {lm.name} with the edit in {out}. Use it:")
        session.say_command(f"factlab ask PROMPT --model {out}")
        session.emit({"to": to, "folder": str(out), "model": lm.name})
        return
    whole = combine([*map(Edit.load, session.edit_places), edit])
    if to == "gguf":
        _show(session, to, out, whole.to_gguf(out, max_rank))
        session.say(f"Saved {out}. Use it:")
        session.say_command(f"llama-server -m MODEL.gguf --lora {out}")
        return
    lm = session.load_model() if every_layer else None
    _show(session, to, out, whole.to_peft(out, max_rank, lm))
    _say_base(session, edit, out)


def _check(to: str, out: Path, max_rank: int | None, every_layer: bool) -> None:
    """Refuse options that do not go together, and places where nothing can be written."""
    from factlab.destinations import check_new_folder
    from factlab.editing.shipping.folders import check_gguf_destination

    if to not in _KINDS:
        raise InvalidRequestError(
            f"Cannot export to '{to}'.{nearest(to, _KINDS)} Choose from {', '.join(_KINDS)}."
        )
    if to == "checkpoint" and max_rank is not None:
        raise InvalidRequestError(
            "--max-rank is for --to peft and --to gguf; a checkpoint holds the exact weights."
        )
    if to != "peft" and every_layer:
        raise InvalidRequestError("--every-layer is for --to peft.")
    if max_rank is not None and max_rank < 1:
        raise InvalidRequestError(f"--max-rank {max_rank} must be at least 1.")
    if to == "gguf":
        check_gguf_destination(out)
    else:
        check_new_folder(out)


def _show(session: Session, to: str, out: Path, made: "ExportedAdapter") -> None:
    """What the adapter keeps of the edit, module by module and in all."""
    rows = [
        [
            m.module,
            str(m.rank) if m.rank == m.full_rank else f"{m.rank} of {m.full_rank}",
            f"{m.kept_energy:.6%}",
            "—" if m.moved is None else f"{m.moved:.3%}",
        ]
        for m in made.modules
    ]
    head = ["module", "rank", "energy kept", "moved at its keys"]
    if all(m.moved is None for m in made.modules):
        head, rows = head[:3], [row[:3] for row in rows]
    session.say(table(head, rows, right={1, 2, 3}))
    if made.kept_energy < 1:
        session.say(f"In all, the adapter keeps {made.kept_energy:.6%} of the edit's energy.")
    modules = [
        {
            "module": m.module,
            "rank": m.rank,
            "kept_energy": m.kept_energy,
            "full_rank": m.full_rank,
            "norm": m.norm,
            "moved": m.moved,
        }
        for m in made.modules
    ]
    session.emit(
        {"to": to, "folder": str(out), "modules": modules, "kept_energy": made.kept_energy}
    )


def _say_base(session: Session, edit: "Edit", out: Path) -> None:
    """How the adapter is used, and where its base model is."""
    from factlab.models import bundled

    session.say(f"Saved in {out}. Use it, where model is {edit.base.name}:")
    session.say_command(f"peft.PeftModel.from_pretrained(model, '{out}')")
    if edit.base.name == bundled.NAME:
        session.say(
            f"Its weights are in {bundled.bundled_place()}, for transformers' from_pretrained. The "
            f"adapter names {bundled.HUB_ID}, which programs find by themselves: the same model "
            "before its weights were rounded to 4 bits, so that figures differ a little."
        )
