"""`factlab memory`: what a model takes, known before it is loaded."""

from typing import Annotated

import typer

from factlab.cli.registration import MODELS, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        memory,
        "memory",
        group=MODELS,
        takes=("model", "dtype", "memory_gib"),
        examples=(
            "factlab memory",
            "factlab memory --model EleutherAI/gpt-j-6b --n-layers 6",
            "factlab memory --model gpt2-xl --dtype float32 --memory-gib 2",
        ),
    )


def memory(
    session: Session,
    n_layers: Annotated[
        int, typer.Option(help="So many layers are edited together, by MEMIT and its kind.")
    ] = 5,
) -> None:
    """Say how much memory a model takes, by command and float type, without loading it."""
    if n_layers < 1:
        raise InvalidRequestError(f"--n-layers {n_layers} must be at least 1.")
    from factlab.models.request import check_dtype, check_gib

    shown = ["float32", "bfloat16"] if session.dtype is None else [check_dtype(session.dtype)]
    batches = 1.0 if session.memory_gib is None else session.memory_gib
    check_gib(batches)
    from factlab.models.footprints import free_gib
    from factlab.models.loading import DTYPES, footprint

    with session.progress() as report:
        model = footprint(session.model, progress=report)
    weights = {name: model.weights_gib(dtype) for name, dtype in DTYPES.items()}
    statistics = model.besides(n_layers)
    session.say(
        f"{model.name}: {model.n_weights / 1e9:.3g} billion weights; "
        + "; ".join(f"{weights[name]:.1f} GiB in {name}" for name in shown)
    )
    rows = [
        [name, f"{gib:.1f}", *(f"{weights[each] + gib + batches:.1f}" for each in shown)]
        for name, gib in statistics.items()
    ]
    session.say(table(["command", "statistics", *shown], rows, right={1, 2, 3}))
    session.say(
        f"GiB; statistics in float64, and in all with {batches:g} GiB for batches (--memory-gib). "
        "Python and PyTorch take some 0.7 besides. With the model on a GPU, statistics stay in "
        "the CPU's memory."
    )
    free = {str(device): gib for device, gib in free_gib().items()}
    session.say("Free here: " + ", ".join(f"{gib:.1f} GiB on {d}" for d, gib in free.items()))
    session.emit(
        {
            "model": model.name,
            "n_weights": model.n_weights,
            "n_layers": model.n_layers,
            "d_mlp": model.d_mlp,
            "weights_gib": weights,
            "besides_gib": statistics,
            "batches_gib": batches,
            "free_gib": free,
        }
    )
