"""`factlab stats`: collect the second moment that closed-form edits need."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import MODELS, command
from factlab.cli.run_options import OverwriteOption
from factlab.cli.session import Session, validated
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, StorageError


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
    from factlab.stats.configs import StatsConfig
    from factlab.storage import check_new_file

    config = validated(StatsConfig, tokens_per_dim=tokens_per_dim, seed=seed)
    if text is not None and dataset is not None:
        raise InvalidRequestError("Give --text or --dataset, not both.")
    if out is not None:
        check_new_file(out, overwrite)
    if out is not None and len(layer or [None]) != 1:
        raise InvalidRequestError("--out takes one layer; run once for each.")
    negative = [number for number in layer or [] if number < 0]
    if negative:
        raise InvalidRequestError(f"--layer {negative[0]} is no layer: they count from 0.")
    if text is not None and not text.exists():
        raise StorageError(f"There is no file or folder '{text}'. Check --text.")
    lm = session.load_model()
    import torch

    from factlab.editing.presets import preset_of
    from factlab.stats.corpus import corpus_from_dataset, corpus_from_files
    from factlab.stats.store import second_moments

    preset = preset_of(lm)
    layers = layer or ([preset.rome_layer] if preset else [])
    if not layers:
        raise InvalidRequestError(f"No preset for {lm.name}. Name the layer with --layer.")
    for number in layers:
        lm.layer(number)
    corpus, n_tokens = None, config.n_tokens(lm)
    if text is not None:
        corpus = corpus_from_files(lm, text, n_tokens, config.row_length)
    elif dataset is not None:
        corpus = corpus_from_dataset(lm, dataset, dataset_config, n_tokens, config.row_length)
    with session.progress() as report:
        moments = second_moments(lm, layers, config, corpus, report, recompute)
    if out is not None:
        moments[layers[0]].save(out)

    found = []
    for number, moment in moments.items():
        eigenvalues = torch.linalg.eigvalsh(moment.matrix)
        found.append(
            {
                "layer": number,
                "n_tokens": moment.n_tokens,
                "source": moment.source,
                "trace": float(moment.matrix.trace()),
                "smallest_eigenvalue": float(eigenvalues[0]),
                "largest_eigenvalue": float(eigenvalues[-1]),
            }
        )
    rows = [
        [str(f["layer"]), f"{f['n_tokens']:,}", f["source"], f"{f['trace']:.3g}",
         f"{f['smallest_eigenvalue']:.2g} … {f['largest_eigenvalue']:.2g}"]
        for f in found
    ]  # fmt: skip
    session.say(table(["layer", "tokens", "text", "E‖k‖²", "eigenvalues of C"], rows, right={0, 1}))
    if out is not None:
        session.say(f"Saved to {out}; use it with: factlab edit … --stats {out}")
    session.emit({"model": lm.name, "layers": found})
