"""Where to edit: ROME at every layer and token, beside what causal tracing says (figure 5).

folder/
layer-03-last/    an evaluation for each layer and token
trace/            the averaged causal trace that the scores are put beside
sweep.json, sweep.csv, sweep.png
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.configs import LOOKUP_TOKENS, LookupToken, RomeConfig
from factlab.errors import InvalidRequestError, nearest
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.sweeping.grid import GridCell, evaluate_grid
from factlab.evaluation.sweeping.result import Cell, Sweep
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard
from factlab.tracing.average import AverageTrace


@checked(in_steps=True)
def sweep(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    layers: Sequence[int],
    tokens: Sequence[LookupToken] = LOOKUP_TOKENS,
    config: RomeConfig | None = None,
    trace: AverageTrace | None = None,
    data_name: str = "records",
    batch_size: int = BATCH_SIZE,
    cache: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
    shard: Shard | None = None,
) -> Sweep:
    """Edit records with ROME at every layer and token, and score them (ROME paper, figure 5).

    What is in the folder already is gone on with, so that a killed sweep loses nothing.

    Args:
        lm: the model, left as it is.
        records: what to edit and ask; likelihoods only.
        out: folder of the sweep.
        layers: 0-based.
        tokens: which token of the prompt to look up: the subject's first or last, the one after
            it, or the prompt's last.
        config: of ROME; its layer and token are replaced.
        trace: to put beside the scores.
        data_name: what to call the records.
        batch_size: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records.
        progress: True for a bar, or a function that is called with cells done and in all.
        shard: do only this part of every cell; see `evaluate`.

    Raises:
        InvalidRequestError: there are no layers or tokens, a token or layer does not exist, or the
            trace is of another model.
        EditError: no fact can be written anywhere.
        StorageError: the folder belongs to another sweep, or cannot be written.
    """
    wanted = sorted(set(layers))
    if not wanted or not tokens:
        raise InvalidRequestError("A sweep needs at least one layer and one token.")
    for layer in wanted:
        lm.layer(layer)
    unknown = [token for token in tokens if token not in LOOKUP_TOKENS]
    if unknown:
        raise InvalidRequestError(
            f"'{unknown[0]}' is no token to look up. Choose from {', '.join(LOOKUP_TOKENS)}."
            f"{nearest(unknown[0], LOOKUP_TOKENS)}"
        )
    if trace is not None and not lm.identity.matches(trace.fingerprint, live=True):
        raise InvalidRequestError(
            f"The trace is of {trace.model_name} (fingerprint {trace.fingerprint[:12]}), not of "
            f"{lm.name} ({lm.live_fingerprint[:12]}). Trace this model."
        )
    chosen = sorted(set(tokens), key=LOOKUP_TOKENS.index)
    config, background = config or RomeConfig(), Background()
    background.second_moments(lm, wanted, config.stats, progress)
    cells: dict[str, Cell] = {
        f"layer-{layer:02d}-{token}": (layer, token) for layer in wanted for token in chosen
    }
    plan = [
        GridCell(name, "rome", config.model_copy(update={"layer": layer, "lookup": token}))
        for name, (layer, token) in cells.items()
    ]
    grid = evaluate_grid(
        lm, records, out, plan, measure=MeasureConfig(n_generated=0), background=background,
        data_name=data_name, batch_size=batch_size, cache=cache,
        should_stop=should_stop, progress=progress, shard=shard,
    )  # fmt: skip
    return Sweep.of_runs(
        {cells[name]: run for name, run in grid.runs.items()},
        {cells[name]: reason for name, reason in grid.impossible.items()},
        wanted, chosen, trace,
    )  # fmt: skip
