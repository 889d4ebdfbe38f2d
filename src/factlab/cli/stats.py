"""`factlab stats`: collect the second moment that closed-form edits need."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.options import OverwriteOption
from factlab.cli.registration import MODELS, command
from factlab.cli.session import Session, validated
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        stats,
        "stats",
        group=MODELS,
        examples=(
            "factlab stats --layer 5 --out layer-5.safetensors",
            "factlab stats --layer 5 --text my-texts/ --model gpt2-xl",
        ),
    )


def stats(
    session: Session,
    layer: Annotated[
        list[int] | None, typer.Option(help="Layer, from 0; may be given several times.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="UTF-8 text file, or folder of them.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Hugging Face data set.")] = None,
    dataset_config: Annotated[str | None, typer.Option(help="Its configuration.")] = None,
    tokens_per_dim: Annotated[
        float | None, typer.Option(help="Tokens to read, as a multiple of d_mlp.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of text from the model itself.")] = None,
    recompute: Annotated[bool, typer.Option(help="Collect again what the cache has.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also save to this file (one layer).")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Collect the second moment of MLP keys, from text or from what the model writes itself."""
    from factlab.destinations import check_new_file
    from factlab.stats.configs import StatisticsRequest, StatsConfig, TextSource

    config = validated(StatsConfig, tokens_per_dim=tokens_per_dim, seed=seed)
    source = validated(TextSource, text=text, dataset=dataset, dataset_config=dataset_config)
    request = validated(
        StatisticsRequest,
        {"layers": "--layer"},
        layers=tuple(layer) if layer else None,
        config=config,
        source=source,
        recompute=recompute,
    )
    if out is not None:
        check_new_file(out, overwrite)
        if len(layer or [None]) != 1:
            raise InvalidRequestError("--out takes one layer; run once for each.")
    source.check()
    lm = session.load_model()
    from factlab.editing.statistics import edit_statistics

    with session.progress() as report:
        moments = edit_statistics(lm, request, report)
    if out is not None:
        next(iter(moments.values())).save(out)
    found = [moment.summary() for moment in moments.values()]
    rows = [
        [str(f["layer"]), f"{f['n_tokens']:,}", f["source"], f"{f['trace']:.3g}",
         f"{f['smallest_eigenvalue']:.2g} … {f['largest_eigenvalue']:.2g}"]
        for f in found
    ]  # fmt: skip
    session.say(table(["layer", "tokens", "text", "E‖k‖²", "eigenvalues of C"], rows, right={0, 1}))
    if out is not None:
        session.say(f"Saved to {out}; use it with: factlab edit … --stats {out}")
    session.emit({"model": lm.name, "layers": found})
