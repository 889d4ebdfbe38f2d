"""A plan that finds out where UltraEdit writes best to a model, and how far it should go."""

from collections.abc import Sequence
from itertools import pairwise

from factlab.arguments import checked
from factlab.editing.closed_form.ultraedit_places import places, rate_by_outputs
from factlab.editing.gradients import Matrix
from factlab.editing.ultraedit_config import MlpPart, UltraEditConfig
from factlab.errors import InvalidRequestError
from factlab.evaluation.sweeping.grid import GridCell
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

_N_WINDOWS = 5


@checked()
def ultraedit_cells(
    lm: LanguageModel,
    layers: Sequence[Sequence[int]] | None = None,
    parts: Sequence[Sequence[MlpPart]] = (("gate", "up"), ("down",)),
    steps: Sequence[int | float] = (0.3, 1.0, 3.0),
    progress: ProgressCallback = silent,
) -> list[GridCell]:
    """UltraEdit with every choice of layers, projections and step, for `evaluate_grid`.

    Args:
        lm: the model, left as it is.
        layers: windows of layers to try, 0-based; by default fifths of the depth.
        parts: kinds of projections to try; see `UltraEditConfig`.
        steps: η to try, as shares of that which a model without a preset would have.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: nothing is to be tried, a layer is not in the model, or a step is not
            above 0.
        UnsupportedModelError: an MLP has no such projection, or it is not plain.

    Examples:
        >>> cells = fl.evaluation.ultraedit_cells(lm, [(0, 1), (1, 2)], [("down",)], steps=(1.0,))
        >>> [cell.name for cell in cells]
        ['layers-0-1-down-1', 'layers-1-2-down-1']
        >>> measure = fl.evaluation.MeasureConfig(n_generated=0)
        >>> grid = fl.evaluation.evaluate_grid(
        ...     lm, facts, "ultraedit-sweep", cells, "together", measure
        ... )
        >>> best = next(cell.config for cell in cells if cell.name == grid.best)
    """
    lm.abilities.need("gradient")
    windows = _fifths(lm) if layers is None else [tuple(window) for window in layers]
    if not windows or not all(windows) or not parts or not all(parts) or not steps:
        raise InvalidRequestError("Give at least one window of layers, one part and one step.")
    if min(steps) <= 0:
        raise InvalidRequestError(f"A step of {min(steps):g} goes nowhere. Give one above 0.")
    cells: list[GridCell] = []
    for window in windows:
        for some in parts:
            config = UltraEditConfig(layers=window, parts=tuple(some))
            matrices = [Matrix.named(lm, name) for name in places(lm, config).weights]
            rate = rate_by_outputs(lm, matrices, progress)
            stem = f"layers-{min(window)}-{max(window)}-{'-'.join(some)}"
            cells += [
                GridCell(
                    f"{stem}-{step:g}",
                    "ultraedit",
                    config.model_copy(update={"learning_rate": step * rate}),
                )
                for step in steps
            ]
    return cells


def _fifths(lm: LanguageModel) -> list[tuple[int, ...]]:
    """Layers that can be written, from below in windows of about the same size."""
    able = [layer for layer in range(lm.n_layers) if lm.layers.is_plain(layer)]
    bounds = [round(len(able) * i / _N_WINDOWS) for i in range(_N_WINDOWS + 1)]
    windows = (tuple(able[a:b]) for a, b in pairwise(bounds))
    return [window for window in windows if window]
