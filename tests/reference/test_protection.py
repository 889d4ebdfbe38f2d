"""Keys that are protected, turn by turn, against the same sums made anew in every turn."""

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form.alphaedit import NullSpace
from factlab.editing.closed_form.emmet import equality_duals
from factlab.editing.closed_form.memit import least_squares_duals
from factlab.editing.metric import OrdinaryKeys
from factlab.editing.protection import Protected, keys_name
from factlab.editing.remembered import Remembered
from factlab.errors import EditError

WIDTH, OUT, TURN = 40, 7, 3


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment() -> fl.stats.SecondMoment:
    keys = random(4 * WIDTH, WIDTH, seed=99)
    return fl.stats.SecondMoment(keys.T @ keys / len(keys), 0, len(keys), "noise", "")


def block(turn: int, subjects: list[int]) -> Remembered:
    facts = tuple(fl.Fact("{} is", f"subject {i}", f"answer {turn}") for i in subjects)
    return Remembered(facts, {keys_name(0): random(len(subjects), WIDTH, seed=turn)})


def turns(rewriting: bool) -> list[Remembered]:
    """Twenty turns; every third of them writes facts anew that two earlier ones wrote."""
    made = []
    for turn in range(20):
        first = TURN * turn
        subjects = [first - 3, first + 1, first - 7] if rewriting and turn % 3 == 2 else None
        made.append(block(turn, subjects or [*range(first, first + TURN)]))
    return made


def standing(past: list[Remembered], replaced: set[tuple[str, str]]) -> torch.Tensor:
    """The keys of what stands: what was written last about each question, in a plain loop."""
    last = {}
    for each in past:
        for fact, key in zip(each.facts, each.tensors[keys_name(0)], strict=True):
            last[fact.question] = key
    rows = [key for question, key in last.items() if question not in replaced]
    return torch.stack(rows) if rows else torch.zeros(0, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("rewriting", [False, True])
@pytest.mark.parametrize("weight", [0.5, 15_000.0])
def test_twenty_turns_equal_the_direct_solution(rewriting, weight):
    c, past, worst = moment(), turns(rewriting), 0.0
    metric = Protected(OrdinaryKeys(c, weight), 0, WIDTH)
    for turn, new in enumerate(past):
        keys, residuals = new.tensors[keys_name(0)], random(TURN, OUT, seed=1000 + turn)
        questions = [fact.question for fact in new.facts]
        held = metric.hold(past[:turn], questions)
        change = residuals.T @ least_squares_duals(keys, held)
        old = standing(past[:turn], {*questions})
        matrix = weight * c.matrix + old.T @ old + keys.T @ keys
        expected = torch.linalg.solve(matrix, keys.T @ residuals).T
        worst = max(worst, float((change - expected).abs().max() / expected.abs().max()))
    assert worst < 1e-8


def test_rewriting_takes_keys_out():
    past = turns(rewriting=True)
    n_written = sum(len(each.facts) for each in past)
    assert len(standing(past, set())) < n_written


@pytest.mark.parametrize("n_facts", [TURN, WIDTH + 5])
def test_more_facts_than_dimensions_give_the_same_solution(n_facts):
    c, past = moment(), turns(rewriting=False)
    held = Protected(OrdinaryKeys(c, 2.0), 0, WIDTH).hold(past)
    keys, residuals = random(n_facts, WIDTH, seed=5), random(n_facts, OUT, seed=6)
    old = standing(past, set())
    expected = torch.linalg.solve(
        2.0 * c.matrix + old.T @ old + keys.T @ keys, keys.T @ residuals
    ).T
    assert torch.allclose(residuals.T @ least_squares_duals(keys, held), expected, atol=1e-10)


def test_equality_in_a_sequence_is_the_smallest_change_of_all_old_keys():
    c, past = moment(), turns(rewriting=True)
    held = Protected(OrdinaryKeys(c, 3.0), 0, WIDTH).hold(past)
    keys, residuals = random(TURN, WIDTH, seed=5), random(TURN, OUT, seed=6)
    change = residuals.T @ equality_duals(keys, held, 0.0)
    assert torch.allclose(change @ keys.T, residuals.T, atol=1e-10)
    old = standing(past, set())
    middle = 3.0 * c.matrix + old.T @ old
    # KKT system of: minimise d A dᵀ subject to d·kᵢ = rᵢ.
    kkt = torch.zeros(WIDTH + TURN, WIDTH + TURN, dtype=torch.float64)
    kkt[:WIDTH, :WIDTH], kkt[:WIDTH, WIDTH:], kkt[WIDTH:, :WIDTH] = 2 * middle, keys.T, keys
    wanted = torch.cat([torch.zeros(WIDTH, OUT, dtype=torch.float64), residuals])
    assert torch.allclose(change, torch.linalg.solve(kkt, wanted)[:WIDTH].T, atol=1e-9)


def test_outputs_of_orthogonal_old_keys_stay():
    keys = torch.linalg.qr(random(WIDTH, WIDTH, seed=3))[0]
    basis = torch.eye(WIDTH, dtype=torch.float64)
    facts = tuple(fl.Fact("{} is", f"subject {i}", "it") for i in range(10))
    past = [Remembered(facts, {keys_name(0): keys[:10] * 100})]
    new = keys[10:13]
    residuals = random(3, OUT, seed=4)
    protected = Protected(NullSpace(basis, 1e-3), 0, WIDTH).hold(past)
    change = residuals.T @ least_squares_duals(new, protected)
    assert float((change @ keys[:10].T).abs().max()) < 1e-6
    assert torch.allclose(change @ new.T, residuals.T, rtol=2e-3)


def test_outputs_of_old_keys_move_less_when_they_are_protected():
    c, past = moment(), turns(rewriting=False)[:5]
    old, keys = standing(past, set()), random(TURN, WIDTH, seed=5)
    residuals = random(TURN, OUT, seed=6)
    moved = []
    for metric in (OrdinaryKeys(c, 0.1), Protected(OrdinaryKeys(c, 0.1), 0, WIDTH).hold(past)):
        change = residuals.T @ least_squares_duals(keys, metric)
        moved.append(float((change @ old.T).norm()))
    assert moved[1] < 0.5 * moved[0]


def test_a_fact_that_could_not_be_written_anew_is_protected_again():
    past = turns(rewriting=False)[:4]
    metric = Protected(OrdinaryKeys(moment(), 1.0), 0, WIDTH)
    whole = metric.hold(past).inverse().clone()
    without = metric.hold(past, [fact.question for fact in past[1].facts]).inverse().clone()
    assert not torch.allclose(whole, without)
    assert torch.allclose(metric.hold(past).inverse(), whole, atol=1e-12)


def test_another_past_is_another_memory():
    past = turns(rewriting=False)
    metric = Protected(OrdinaryKeys(moment(), 1.0), 0, WIDTH)
    metric.hold(past[:6])
    anew = Protected(OrdinaryKeys(moment(), 1.0), 0, WIDTH)
    for other in (past[2:5], past[:1], []):
        found, expected = (
            metric.hold(other),
            anew.__class__(OrdinaryKeys(moment(), 1.0), 0, WIDTH).hold(other),
        )
        assert torch.allclose(found.inverse(), expected.inverse(), atol=1e-12)


def test_the_metric_of_stacked_keys_holds_them_one_by_one():
    blocks = torch.stack([moment().matrix[:20, :20], moment().matrix[20:, 20:]])
    experts = fl.stats.ExpertMoments(blocks, torch.tensor([200, 200]), 0, 400, "noise", "")
    past = turns(rewriting=True)
    metric = Protected(OrdinaryKeys(experts, 2.0), 0, WIDTH)
    metric.hold(past[:7])
    keys = random(TURN, WIDTH, seed=5)
    found = least_squares_duals(keys, metric.hold(past))
    old = standing(past, set())
    whole = 2.0 * torch.block_diag(*blocks) + old.T @ old + keys.T @ keys
    assert torch.allclose(found, torch.linalg.solve(whole, keys.T).T, atol=1e-10)


def test_keys_of_another_model_or_damaged_ones_are_refused():
    good = block(0, [1, 2, 3])
    for bad in (
        good.tensors[keys_name(0)][:, 1:],
        good.tensors[keys_name(0)][1:],
        good.tensors[keys_name(0)] * torch.nan,
    ):
        metric = Protected(OrdinaryKeys(moment(), 1.0), 0, WIDTH)
        with pytest.raises(EditError, match="remembers keys at layer 0"):
            metric.hold([Remembered(good.facts, {keys_name(0): bad})])
