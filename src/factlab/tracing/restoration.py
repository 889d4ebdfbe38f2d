"""Corrupted runs with restoration, at the floor of what must be computed.

A *cell* is one restoration: which state, at which position, at which layers. What it can change
are the tokens from its position rightwards at the layers from its own upwards. So for each position
one walk goes up the layers with all cells in one batch:

* keys and values of the tokens on the left are the corrupted run's;
* a cell joins the walk above the layer where it is restored. At that layer only the restored token
  differs from the corrupted run, and what it becomes is worked out once for all positions
  (`_first_steps`);
* windows that were cut off at layer 0 are one and the same run until the shorter of them ends,
  where it branches off the longer;
* the readout sees only the tokens at which the answer is read.

Where severed paths have noise drawn anew nothing of the corrupted run can be used: those cells are
whole forward passes (`factlab.tracing.whole_passes`).

The batch goes through a layer in pieces that fit the processor's cache, which is what makes one
layer cost little more than its matrix products.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from factlab.hooks import Site, Stream, intervene
from factlab.models.engines.engine import Frame
from factlab.models.language_model import LanguageModel
from factlab.places import places
from factlab.progress import ProgressCallback
from factlab.tracing.cells import RESTORED, SEVERED, Cell, cells_of, parents_of, redrawn
from factlab.tracing.configs import TraceConfig
from factlab.tracing.effects import Effects
from factlab.tracing.runs import CleanRun, CorruptedRun, PlannedRun
from factlab.tracing.whole_passes import add_by_whole_passes

# States kept between layers, in pieces that go through a layer together.
_PIECES_HELD = 16


def exact_effects(
    lm: LanguageModel,
    clean: CleanRun,
    planned: Sequence[PlannedRun],
    positions: Sequence[int],
    config: TraceConfig,
    progress: ProgressCallback,
) -> Effects:
    """Indirect effects, every restoration by a run of its own, as `causal_trace` has them."""
    effects = Effects(lm, clean, planned, positions, config)
    changing = [position for position in positions if position >= clean.span.start]
    n_steps = len(planned) * len(changing)
    apart = [cell for cell in cells_of(lm.layers, config) if redrawn(cell, config)]
    restorer = None
    for i, plan in enumerate(planned):
        del restorer  # the states that a run keeps go before those of the next come
        restorer = Restorer(lm, clean, effects.of(plan.run(lm, clean)), config)
        for step, position in enumerate(changing, start=i * len(changing)):
            progress("tracing", step, n_steps)
            if position in plan.aligned:
                for cell, effect in restorer.effects(position):
                    effects.add(cell.kind, position, cell.layer, float(effect.sum()))
        todo = [(cell, position) for position in positions for cell in apart]
        add_by_whole_passes(effects, lm, clean, restorer.corrupted, todo)
    progress("tracing", n_steps, n_steps)
    return effects


class Restorer:
    """Runs restorations of one clean run into one corrupted run.

    Args:
        lm: the model.
        clean: where restored states come from.
        corrupted: where they go.
        config: what to restore.
    """

    def __init__(
        self, lm: LanguageModel, clean: CleanRun, corrupted: CorruptedRun, config: TraceConfig
    ) -> None:
        self.lm, self.clean, self.corrupted = lm, clean, corrupted
        self.cells = [c for c in cells_of(lm.layers, config) if not redrawn(c, config)]
        self.samples = corrupted.batch.n_rows
        self.piece = lm.budget.piece_tokens
        self.held = min(_PIECES_HELD * self.piece, _states_held(lm))
        self.opened = self._first_steps()

    def effects(self, position: int) -> Iterator[tuple[Cell, Float[Tensor, " sample"]]]:
        """P(answer) with restoration minus without, of every cell at a position of the prompt."""
        for cells, reads in self.reads(position):
            probs = self.clean.probs(self.lm, reads).view(-1, self.samples)
            yield from zip(cells, probs - self.corrupted.probs, strict=True)

    def reads(
        self, position: int
    ) -> Iterator[tuple[Sequence[Cell], Float[Tensor, "row read d_model"]]]:
        """What leaves the last layer where the answer is read, with each cell at a position.

        Rows are (cell, sample), some cells at a time.
        """
        width = self.corrupted.batch.width - self.corrupted.aligned[position]
        at_once = max(1, self.held // (self.samples * width))
        for i in range(0, len(self.cells), at_once):
            walk = _Walk(self, position, self.cells[i : i + at_once])
            yield walk.cells, walk.run()[:, -len(self.clean.continuation.target_ids) :]

    def _first_steps(self) -> dict[tuple[Stream, int], Float[Tensor, "sample pos d_model"]]:
        """What each token would be above a layer at which its own output was put back.

        Restoring one token's output changes only that token above the same layer, and changes it in
        the same way whatever the others do. So one run of the layer with all tokens put back gives
        the first step of the windows at every position.
        """
        in_clean = tuple(self.corrupted.aligned)
        in_corrupted = tuple(self.corrupted.aligned.values())
        opened: dict[tuple[Stream, int], Tensor] = {}
        frame = self.lm.frame(self.corrupted.batch)
        windows = [cell for cell in self.cells if cell.kind in RESTORED]
        for stream, first in sorted({(RESTORED[c.kind], c.first) for c in windows}):
            site = Site(first, stream)
            if not self.lm.layers.has(site):
                continue
            clean = self.clean.states[site]
            clean = clean[places(in_clean, clean.device)]
            put_back = partial(_put_back, in_corrupted, clean)
            with intervene(self.lm, {site: put_back}):
                out = self.lm.step(frame, self.corrupted.inputs[first], first)
            opened[stream, first] = out
        return opened


def _put_back(positions: tuple[int, ...], clean: Tensor, state: Tensor) -> Tensor:
    restored = state.clone()
    restored[:, places(positions, state.device)] = clean
    return restored


def _states_held(lm: LanguageModel) -> int:
    """How many states, as they are between layers, fit into a quarter of the memory."""
    return lm.budget.at_most(2 * lm.budget.sizes.state, 0.25)


class _Walk:
    """Some cells of one position on their way up.

    Args:
        restorer: whose cells they are.
        position: of the clean prompt.
        cells: some of those that are restored there.

    Attributes:
        cells: in the order in which they join.
    """

    def __init__(self, restorer: Restorer, position: int, cells: Sequence[Cell]) -> None:
        self._restorer = restorer
        self._lm, self._clean, self._corrupted = restorer.lm, restorer.clean, restorer.corrupted
        self._position, self._column = position, self._corrupted.aligned[position]
        self._prefix = self._corrupted.left_of(self._column)
        width = self._corrupted.batch.width - self._column
        self._at_once = max(1, restorer.piece // (restorer.samples * width))
        self._parents = parents_of(cells)
        self.cells = sorted(cells, key=self._joins)
        self._frames: dict[int, Frame] = {}

    def _joins(self, cell: Cell) -> int:
        """The first layer that has to be run for a cell of its own."""
        return cell.stop if cell in self._parents else cell.first + 1

    def run(self) -> Float[Tensor, "row pos d_model"]:
        """What leaves the last layer, rows being (cell, sample) in the order of `self.cells`."""
        example = self._corrupted.inputs[-1][:, self._column :]
        states = example.new_empty(len(self.cells), *example.shape)
        row_of = {cell: row for row, cell in enumerate(self.cells)}
        joined = 0
        for layer in range(self._joins(self.cells[0]), self._lm.n_layers + 1):
            while joined < len(self.cells) and self._joins(self.cells[joined]) == layer:
                cell = self.cells[joined]
                parent = self._parents.get(cell)
                states[joined] = self._start(cell) if parent is None else states[row_of[parent]]
                joined += 1
            if layer < self._lm.n_layers:
                for i in range(0, joined, self._at_once):
                    stop = min(i + self._at_once, joined)
                    states[i:stop] = self._step(states[i:stop], self.cells[i:stop], layer)
        return states.flatten(0, 1)

    def _start(self, cell: Cell) -> Float[Tensor, "sample pos d_model"]:
        """The states with which a cell joins that branches off no other."""
        start = self._corrupted.inputs[cell.first + 1][:, self._column :].clone()
        if cell.kind in RESTORED:
            restored = self._restorer.opened.get((RESTORED[cell.kind], cell.first))
            if restored is not None:  # None where the window begins at a layer without such a part
                start[:, 0] = restored[:, self._column]
        else:
            start[:, 0] = self._clean.states[Site(cell.layer, Stream.BLOCK)][self._position]
        return start

    def _step(
        self, states: Float[Tensor, "cell sample pos d_model"], cells: Sequence[Cell], layer: int
    ) -> Float[Tensor, "cell sample pos d_model"]:
        rows = len(cells) * self._restorer.samples
        if rows not in self._frames:
            self._frames[rows] = self._lm.frame(
                self._corrupted.batch, self._prefix, self._column, rows
            )
        with intervene(self._lm, self._interventions(cells, layer)):
            out = self._lm.step(self._frames[rows], states.flatten(0, 1), layer)
        return out.unflatten(0, states.shape[:2])

    def _interventions(
        self, cells: Sequence[Cell], layer: int
    ) -> dict[Site, Callable[[Tensor], Tensor]]:
        """Clean outputs for cells whose window is open, corrupted ones for severed cells."""
        interventions: dict[Site, Callable[[Tensor], Tensor]] = {}
        for stream in (Stream.MLP, Stream.ATTN):
            site = Site(layer, stream)
            is_open = [RESTORED.get(c.kind) is stream and layer < c.stop for c in cells]
            is_severed = [SEVERED.get(c.kind) is stream for c in cells]
            if (any(is_open) or any(is_severed)) and self._lm.layers.has(site):
                interventions[site] = self._put(site, is_open, is_severed)
        return interventions

    def _put(
        self, site: Site, is_open: list[bool], is_severed: list[bool]
    ) -> Callable[[Tensor], Tensor]:
        clean = self._clean.states[site][self._position]
        corrupted = self._corrupted.states[site][:, self._column]

        # A projection's result belongs to nobody else, so it is changed where it is.
        return partial(
            _overwrite, self._restorer.samples, ((is_open, clean), (is_severed, corrupted))
        )


def _overwrite(
    samples: int, replacements: Sequence[tuple[list[bool], Tensor]], state: Tensor
) -> Tensor:
    """Put states into the first token of some cells, in place."""
    by_cell = state.view(-1, samples, *state.shape[1:])
    for is_cell, replacement in replacements:
        if any(is_cell):
            # By number: a mask makes a GPU wait until it is known how many cells there are.
            cells = places(tuple(i for i, one in enumerate(is_cell) if one), state.device)
            by_cell[cells, :, 0] = replacement.to(state)
    return state
