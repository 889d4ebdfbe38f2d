"""Changing weights so that the change can be taken back to the bit, in any order.

The live weight is always the original with the active changes applied one after another, so taking
one off leaves exactly what applying only the others would have given.

For every changed weight a `PatchBoard` keeps the original, a copy of what it wrote last, and the
weight as it was after a few smaller numbers of changes. So

* whether somebody else changed the weight is seen by comparing it with the copy, in whatever
  arithmetic the changes are undone;
* putting a change on is one sum, however many are on already;
* taking the last one off is a copy; several one by one, last first, takes some sums each, since the
  weight is made anew from the nearest state that was kept; one from the middle, a sum for each
  after it; all at once, none;
* memory does not grow with the changes: two matrices for a weight that is changed once, four for
  one that is changed often, or for small ones some more, up to 32 MiB.

A weight that cannot be written (quantised, offloaded) is left as it is, and its projection carries
the changes (`ride.py`): what is kept in place of a weight and written is a `Ride` then.

Nothing is written before all of it has been computed. Whoever is interrupted while weights are
written (a Ctrl-C, say) leaves them as they were: what they were is at hand until all are written,
and is written back at once, or if that is interrupted as well, when the board is used next.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from factlab.errors import EditError
from factlab.models.changes.change import Change
from factlab.models.changes.patched import Application, Patched
from factlab.models.changes.ride import Ride


@dataclass(frozen=True, slots=True, eq=False)
class _Position:
    """Where the board is.

    Attributes:
        weights: those that are changed.
        before: while weights are being written, what they were.
    """

    weights: Mapping[str, Patched] = field(default_factory=dict[str, Patched])
    before: Mapping[str, Tensor | Ride] = field(default_factory=dict[str, Tensor | Ride])


class PatchBoard:
    """The changes that are on a model now.

    Args:
        model: whose weights they change.
        lock: the model's, or by default one of its own. It is held for blocks that change weights,
            and while they are written, so that nobody takes another thread's writing for an
            interrupt.
    """

    def __init__(self, model: nn.Module, lock: AbstractContextManager[Any] | None = None) -> None:
        self._model = model
        self._position = _Position()
        self._lock = lock or threading.RLock()
        self._times = count()

    @property
    def active(self) -> list[Change]:
        """All changes that are on, weight by weight."""
        return [each.patch for entry in self._weights.values() for each in entry.active]

    @property
    def sources(self) -> list[object]:
        """What the changes that are on are parts of, in the order in which it was put on."""
        every = [each for entry in self._weights.values() for each in entry.active]
        by_time = {each.number: each.source for each in every if each.source is not None}
        return [by_time[number] for number in sorted(by_time)]

    def originals(self) -> dict[str, Tensor]:
        """The unchanged values of the weights that are changed now."""
        return _tensors({name: entry.original for name, entry in self._weights.items()})

    def written(self) -> dict[str, Tensor]:
        """What was written to the weights that are changed now, and they should be still."""
        return _tensors({name: entry.written for name, entry in self._weights.items()})

    def carried(self) -> list[Change]:
        """The changes that are on beside weights that cannot be written; others are in them."""
        rides = [entry.written for entry in self._weights.values()]
        return [change for each in rides if isinstance(each, Ride) for change in each.changes]

    # -- on and off -------------------------------------------------------------------------

    def add(self, patches: Sequence[Change], source: object = None) -> list[Application]:
        """Put changes on: all of them, or none if one does not fit.

        Args:
            patches: the changes.
            source: what they are parts of.

        Returns:
            What `remove` takes to take off these, and not the same changes put on at another time.

        Raises:
            EditError: a weight is missing, a result has NaN, or a weight was changed by others.
        """
        applied: list[Application] = []
        with self._lock:
            self._put(patches, applied, source)
        return applied

    def remove(self, patches: Sequence[Change | Application]) -> None:
        """Take changes off, whatever was put on since.

        Args:
            patches: what `add` returned; for a change itself its last application is taken off.

        Raises:
            EditError: one is not on the model, or a weight was changed by others meanwhile.
        """
        with self._lock:
            self._remove(patches)

    def _remove(self, patches: Sequence[Change | Application]) -> None:
        planned: dict[str, list[Application]] = {}
        for patch in reversed(patches):
            name = patch.weight_name
            if name not in planned:
                planned[name] = self._checked(name)
            on = planned[name]
            last = len(on) - 1
            while last >= 0 and on[last] is not patch and on[last].patch is not patch:
                last -= 1
            if last < 0:
                raise EditError(
                    f"The edit of '{name}' is not applied to this model (any more). An undo "
                    "function can be called once; applying the edit again gives another."
                )
            del on[last]
        self._set(planned)

    @contextmanager
    def applied(
        self, patches: Sequence[Change] = (), source: object = None
    ) -> Generator["Pile", None, None]:
        """Put changes on inside the block and take them off after it, whatever happens inside.

        An interrupt at any moment leaves the weights without them. Other threads wait for the end
        of the block.

        Args:
            patches: the changes.
            source: what they are parts of.

        Yields:
            A pile, to which more can be added; they are all taken off together.

        Raises:
            EditError: as `add`, and after the block as `remove`.
        """
        with self._lock:
            pile = Pile(self)
            try:
                try:
                    self._put(patches, pile.applications, source)
                    yield pile
                except Exception:  # of any kind; an interrupt is met below, wherever it comes
                    self.remove(pile.applications)
                    raise
                self.remove(pile.applications)
            except BaseException as error:
                if not isinstance(error, Exception):  # an interrupt, which may have come in between
                    self._take_off(pile.applications)
                raise

    @contextmanager
    def lifted(self) -> Generator[None, None, None]:
        """Take all changes off inside the block; on again after it, to the bit.

        Changes that are put on inside the block and are still on at its end stay on, above the
        others. Other threads wait for the end of the block.

        Raises:
            EditError: a weight was changed by other code before or inside the block.
        """
        with self._lock:
            for name in self._weights:
                self._checked(name)
            lifted = self._weights
            try:
                try:
                    self._set({name: [] for name in lifted})
                    yield
                except Exception:  # of any kind; an interrupt is met below, wherever it comes
                    self._put_back(lifted)
                    raise
                self._put_back(lifted)
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._put_back(lifted)
                raise

    # -- inside -----------------------------------------------------------------------------

    @property
    def _weights(self) -> Mapping[str, Patched]:
        self._recover()
        return self._position.weights

    def _put(self, patches: Sequence[Change], applied: list[Application], source: object) -> None:
        """Put changes on; noted in the list first, so that whoever is interrupted knows them."""
        number = next(self._times)
        new = [Application(patch, source, number) for patch in patches]
        planned: dict[str, list[Application]] = {}
        for each in new:
            name = each.weight_name
            if name not in planned:
                planned[name] = self._checked(name)
            planned[name].append(each)
        applied += new
        try:
            self._set(planned)
        except Exception:  # nothing was put on; after an interrupt some may be, and stay noted
            del applied[len(applied) - len(new) :]
            raise

    def _take_off(self, applications: Sequence[Application]) -> None:
        """Take off those that are on."""
        self.remove([each for each in applications if self._is_on(each)])

    def _is_on(self, application: Application) -> bool:
        entry = self._weights.get(application.weight_name)
        return entry is not None and application in entry.active

    def _put_back(self, lifted: Mapping[str, Patched]) -> None:
        """Put what was lifted below what is on now, unless it is there already."""
        weights = dict(self._weights)
        written: dict[str, Tensor | Ride] = {}
        for name, entry in lifted.items():
            now = weights.get(name)
            if now is None:
                self._check(name, entry.original)
                weights[name] = entry
            elif now.active[: len(entry.active)] != entry.active:
                self._check(name, now.written)
                weights[name] = _finite(name, entry.having(entry.active + now.active, self._model))
            else:
                continue
            written[name] = weights[name].written
        self._write(written, weights)

    def _checked(self, name: str) -> list[Application]:
        """The changes on a weight, if it is to the bit what was written."""
        if name not in self._weights:
            return []
        self._check(name, self._weights[name].written)
        return list(self._weights[name].active)

    def _check(self, name: str, written: Tensor | Ride) -> None:
        if isinstance(written, Ride):
            written.check(self._model)
            return
        live = self._parameter(name).detach()
        same_kind = (live.shape, live.dtype, live.device) == (
            written.shape,
            written.dtype,
            written.device,
        )
        if not same_kind or not torch.equal(live, written):
            raise EditError(
                f"'{name}' was changed by other code while an edit was applied, so the edit "
                "cannot be undone exactly. Undo edits before training or loading weights."
            )

    def _set(self, planned: Mapping[str, Sequence[Application]]) -> None:
        """Give weights these changes; whatever can go wrong does so before the first write."""
        weights = dict(self._weights)
        written: dict[str, Tensor | Ride] = {}
        with torch.inference_mode(False):  # originals must be tensors whose changes are counted
            for name, active in planned.items():
                entry = weights.get(name) or Patched(
                    Ride.on(self._model, name) or self._parameter(name).detach().clone()
                )
                entry = _finite(name, entry.having(tuple(active), self._model))
                written[name] = entry.written
                if active:
                    weights[name] = entry
                else:
                    weights.pop(name, None)
        self._write(written, weights)

    def _write(self, written: Mapping[str, Tensor | Ride], weights: Mapping[str, Patched]) -> None:
        """Write weights and note what is on them then: all of it or nothing."""
        old = self._position.weights
        before = {
            name: old[name].written if name in old else weights[name].original for name in written
        }
        with self._lock:
            try:
                self._position = _Position(old, before)
                for name, bits in written.items():
                    self._place(name, bits)
                self._position = _Position(weights)
            except BaseException:
                self._recover()
                raise

    def _recover(self) -> None:
        """Write back what an interrupt left half written."""
        with self._lock:
            for name, bits in self._position.before.items():
                self._place(name, bits)
            if self._position.before:
                self._position = _Position(self._position.weights)

    def _place(self, name: str, bits: Tensor | Ride) -> None:
        if isinstance(bits, Ride):
            bits.place(self._model)
        else:
            self._parameter(name).detach().copy_(bits)

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self._model.get_parameter(name)
        except AttributeError as error:
            raise EditError(f"The model has no weight '{name}'.") from error


class Pile:
    """Changes that are taken off together.

    Attributes:
        applications: those that were put on.
    """

    def __init__(self, board: PatchBoard) -> None:
        self._board = board
        self.applications: list[Application] = []

    def add(self, patches: Sequence[Change], source: object = None) -> None:
        """Put more changes on; see `PatchBoard.add`."""
        self._board._put(patches, self.applications, source)


def _tensors(every: Mapping[str, Tensor | Ride]) -> dict[str, Tensor]:
    return {name: each for name, each in every.items() if isinstance(each, Tensor)}


def _finite(name: str, entry: Patched) -> Patched:
    written = entry.written
    if isinstance(written, Tensor) and not all(map(torch.isfinite, torch.aminmax(written))):
        raise EditError(f"The edited weight '{name}' has NaN or infinite entries.")
    return entry
