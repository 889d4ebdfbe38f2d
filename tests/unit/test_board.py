"""The board of changes against the slow right way: the original, and each change added in order."""

import itertools
import random
import sys
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factlab.errors import EditError
from factlab.models.changes.board import PatchBoard
from factlab.models.changes.change import Change
from factlab.models.changes.update import DenseUpdate, LowRankUpdate

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NAMES = ["first.weight", "second.weight", "third.weight"]


class Model(nn.Module):
    """Three projections of 6 × 10."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        for name in NAMES:
            linear = nn.Linear(10, 6, dtype=dtype)
            linear.weight.data = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)).to(
                dtype
            )
            setattr(self, name.removesuffix(".weight"), linear)


def change(seed: int, name: str = NAMES[0], rank: int | None = 2) -> Change:
    """A random change; dense without a rank."""
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return DenseUpdate(name, "out_in", torch.randn(6, 10, generator=generator))
    left, right = (
        torch.randn(6, rank, generator=generator),
        torch.randn(rank, 10, generator=generator),
    )
    return LowRankUpdate(name, "out_in", left, right)


def by_hand(original: torch.Tensor, changes: list[Change]) -> torch.Tensor:
    """Each change in turn: summed in float64, rounded once."""
    weight = original
    for each in changes:
        parts = each.tensors()
        delta = parts["delta"].double() if "delta" in parts else torch.zeros(1)
        if "left" in parts:
            delta = parts["left"].double() @ parts["right"].double()
        weight = (weight.double() + delta).to(original.dtype)
    return weight


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights."""
    return {name: model.get_parameter(name).detach().clone() for name in NAMES}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(one[name], other[name]) for name in NAMES)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 10**6))
def test_every_moment_is_the_original_with_what_is_on_in_order(dtype, seed):
    choose = random.Random(seed)  # noqa: S311
    model = Model(dtype)
    board, original = PatchBoard(model), bits(model)
    on: list = []
    for step in range(40):
        if not on or choose.random() < 0.6:
            names = choose.sample(NAMES, choose.randint(1, 3))
            made = [
                change(100 * step + i, n, choose.choice([None, 1, 3])) for i, n in enumerate(names)
            ]
            on.append((made, board.add(made)))
        else:
            _, applied = on.pop(choose.choice([-1, choose.randrange(len(on))]))
            board.remove(applied)
        for name in NAMES:
            changes = [c for made, _ in on for c in made if c.weight_name == name]
            assert torch.equal(model.get_parameter(name), by_hand(original[name], changes))
    board.remove([each for _, applied in on for each in applied])
    assert same(bits(model), original)
    assert not board.active
    assert not board.originals()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_taking_off_in_order_goes_back_through_every_state(n):
    model = Model(torch.float32)
    board, states, applied = PatchBoard(model), [bits(model)], []
    for i in range(n):
        applied.append(board.add([change(i)]))
        states.append(bits(model))
    for number in range(n, 0, -1):
        board.remove(applied[number - 1])
        assert same(bits(model), states[number - 1])


class Counted(LowRankUpdate):
    """Counts how often it was added."""

    def patched(self, weight: torch.Tensor) -> torch.Tensor:
        """See `Change`."""
        COUNTS.append(self)
        return super().patched(weight)


COUNTS: list = []


@pytest.mark.parametrize("kept", [2, 16])
def test_what_it_costs_and_holds(monkeypatch, kept):
    monkeypatch.setattr("factlab.models.changes.patched._MOST_KEPT", kept)
    model, n = Model(torch.float32), 100
    board, applied = PatchBoard(model), []
    thin = [change(i).thin for i in range(n)]
    changes = [Counted(NAMES[0], "out_in", *factors) for factors in thin]
    COUNTS.clear()
    for number, each in enumerate(changes, 1):
        applied.append(board.add([each]))
        assert len(COUNTS) == number, "one sum for each edit, however many are on"
        assert len(board._weights[NAMES[0]].states) <= kept + 1
    with board.lifted():
        pass
    assert len(COUNTS) == n, "lifting and putting back sums nothing"
    for _ in range(3):
        board.remove(board.add([changes[0]]))
    assert len(COUNTS) == n + 3, "undoing the last sums nothing"
    COUNTS.clear()
    for each in reversed(applied):
        board.remove(each)
    assert len(COUNTS) < {2: 8, 16: 1}[kept] * n
    applied = board.add(changes)
    COUNTS.clear()
    board.remove(applied)
    assert not COUNTS, "undoing all at once sums nothing"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 200, None])
def test_the_callers_arithmetic_has_no_say(dtype, rank):
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    model = Model(dtype)
    board, original = PatchBoard(model), bits(model)
    changes = [change(i, rank=rank) for i in range(4)]
    expected = by_hand(original[NAMES[0]], changes)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            torch.set_float32_matmul_precision("medium")
            applied = [board.add([each]) for each in changes]
        assert torch.equal(model.get_parameter(NAMES[0]), expected)
        torch.set_num_threads(threads % 2 + 1)
        torch.set_float32_matmul_precision("highest")
        board.remove(applied[1])
        with torch.autocast("cpu", torch.bfloat16):
            for number in (3, 0, 2):
                board.remove(applied[number])
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
    assert same(bits(model), original)


# -- lifted --------------------------------------------------------------------------------------


def test_what_is_put_on_while_others_are_lifted_stays_on():
    model = Model(torch.float32)
    board, original = PatchBoard(model), bits(model)
    one, two, three, four = (change(i, name) for i, name in enumerate(NAMES[:2] * 2))
    below = board.add([one, two])
    with board.lifted():
        assert same(bits(model), original)
        assert not board.active
        above = board.add([three])
        with board.lifted():
            assert same(bits(model), original)
        with board.applied([four]):
            pass
        assert torch.equal(model.get_parameter(NAMES[0]), by_hand(original[NAMES[0]], [three]))
    assert torch.equal(model.get_parameter(NAMES[0]), by_hand(original[NAMES[0]], [one, three]))
    board.remove(below)
    assert torch.equal(model.get_parameter(NAMES[0]), by_hand(original[NAMES[0]], [three]))
    board.remove(above)
    assert same(bits(model), original)


def test_a_weight_changed_by_others_while_it_is_bare_is_not_written_over():
    model = Model(torch.float32)
    board = PatchBoard(model)
    board.add([change(0)])
    with pytest.raises(EditError, match="changed by other code"), board.lifted():
        model.get_parameter(NAMES[0]).data += 1


def test_a_model_in_another_dtype_is_no_longer_what_was_written():
    model = Model(torch.float32)
    board = PatchBoard(model)
    applied = board.add([change(0)])
    model.half()
    with pytest.raises(EditError, match="changed by other code"):
        board.remove(applied)


# -- interrupts ----------------------------------------------------------------------------------


class Interrupts:
    """Raises KeyboardInterrupt at lines of the board, by number."""

    def __init__(self, *at: int) -> None:
        self.at, self.line = at, 0

    def __enter__(self) -> "Interrupts":
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_reason: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame, _event, _argument):
        return self._local if frame.f_code.co_filename.endswith("board.py") else None

    def _local(self, _frame, event, _argument):
        if event == "line":
            self.line += 1
            if self.line in self.at:
                raise KeyboardInterrupt
        return self._local


def applied(board):
    with board.applied([change(7, name) for name in NAMES]) as pile:
        pile.add([change(8, NAMES[1]), change(9, NAMES[2])])


def lifted(board):
    with board.lifted():
        pass


def lifted_around(board):
    with board.lifted(), board.applied([change(5, NAMES[1])]):
        pass


def added(board):
    board.remove(board.add([change(7, name) for name in NAMES]))


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("below", [0, 2])
@pytest.mark.parametrize("use", [applied, lifted, lifted_around])
def test_interrupted_at_any_line_it_is_as_before(use, below, twice):
    """A second interrupt falls into the restoring itself; what it leaves is seen to at next use."""
    model = Model(torch.float32)
    board = PatchBoard(model)
    for i in range(below):
        board.add([change(i, name) for name in NAMES])
    before, active = bits(model), board.active
    at, done = 0, False
    while not done:
        at += 1
        with suppress(KeyboardInterrupt), Interrupts(at, *([at + 3] if twice else [])):
            use(board)
            done = True
        if not twice:
            assert same(bits(model), before), at
            assert board.active == active, at
        consistent(model, board)
        board.remove(board.active[3 * below :])
        if board.active != active:  # lifted, and twice interrupted on the way back
            assert twice
            board.remove(board.active)
            for each in active:
                board.add([each])
    assert at > 30


def consistent(model, board) -> None:
    """The live weights are what the board says."""
    board._recover()
    for name, written in board.written().items():
        assert torch.equal(model.get_parameter(name), written)


def test_an_interrupted_add_or_remove_is_all_or_nothing():
    model = Model(torch.float32)
    board = PatchBoard(model)
    before = bits(model)
    for at in itertools.count(1):
        with suppress(KeyboardInterrupt), Interrupts(at):
            added(board)
            break
        assert len(board.active) in (0, 3)
        consistent(model, board)
        board.remove(board.active)
        assert same(bits(model), before)
    assert at > 30
