"""MEMIT, EMMET and AlphaEdit against dense solutions, and over layers, on every family in float64."""

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form.alphaedit import NullSpace, null_space
from factlab.editing.closed_form.emmet import equality_duals
from factlab.editing.closed_form.lookup import keys_and_outputs, mean_keys, prompt_rows
from factlab.editing.closed_form.memit import least_squares_duals
from factlab.editing.closed_form.rank_one import rank_one_factors
from factlab.editing.closed_form.value import optimise_values
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.contexts import context_weights
from factlab.editing.methods import METHODS
from factlab.editing.metric import OrdinaryKeys
from factlab.editing.protection import Protected, keys_name
from factlab.editing.remembered import Remembered
from factlab.editing.requests import ValueRequest
from factlab.errors import InvalidRequestError
from model_families import FAMILIES, SINGLE_INSIDE

FACTS = [
    fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle"),
    fl.Fact("{} is", "Rome", "Paris"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
    fl.Fact("{} was made by", "the Space Needle", "Apple"),
]
SHARED = {
    "value": ValueConfig(steps=4, clamp_factor=1.0),
    "contexts": ContextConfig(groups=((2, 4),)),
}


def moment(
    width: int, layer: int = 0, fingerprint: str = "", seed: int = 7
) -> fl.stats.SecondMoment:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
    return fl.stats.SecondMoment(keys.T @ keys / len(keys), layer, len(keys), "noise", fingerprint)


def background(lm) -> fl.editing.Background:
    return fl.editing.Background.of(
        [moment(lm.d_mlp, i, lm.fingerprint, i) for i in range(lm.n_layers)]
    )


def remembered(keys: torch.Tensor, first: int = 0) -> Remembered:
    facts = tuple(fl.Fact("{} is", f"subject {first + i}", "it") for i in range(len(keys)))
    return Remembered(facts, {keys_name(0): keys})


def protected(base, past: torch.Tensor):
    return Protected(base, 0, past.shape[1]).hold([remembered(past)])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_facts", [1, 5, 30])
def test_memit_solves_the_least_squares_problem(n_facts):
    width, out, weight = 12, 7, 3.0
    c, keys, residuals = moment(width), random(n_facts, width), random(n_facts, out, seed=1)
    change = residuals.T @ least_squares_duals(keys, OrdinaryKeys(c, weight))
    # Minimise Σ‖Δ k − r‖² + λ tr(Δ C Δᵀ) as one tall least-squares problem.
    root = torch.linalg.cholesky(weight * c.matrix).T
    tall = torch.cat([keys, root])
    wanted = torch.cat([residuals, torch.zeros(width, out, dtype=torch.float64)])
    expected = torch.linalg.lstsq(tall, wanted).solution.T
    assert torch.allclose(change, expected, atol=1e-10)


def test_emmet_stores_every_pair_by_the_smallest_change():
    width, out, n_facts = 12, 7, 5
    c, keys, residuals = moment(width), random(n_facts, width), random(n_facts, out, seed=1)
    change = residuals.T @ equality_duals(keys, OrdinaryKeys(c, 1.0), 0.0)
    assert torch.allclose(change @ keys.T, residuals.T, atol=1e-10)
    # KKT system of: minimise d C dᵀ subject to d·kᵢ = rᵢ.
    kkt = torch.zeros(width + n_facts, width + n_facts, dtype=torch.float64)
    kkt[:width, :width], kkt[:width, width:], kkt[width:, :width] = 2 * c.matrix, keys.T, keys
    wanted = torch.cat([torch.zeros(width, out, dtype=torch.float64), residuals])
    assert torch.allclose(change, torch.linalg.solve(kkt, wanted)[:width].T, atol=1e-10)


def test_emmet_of_one_fact_is_rome():
    c, key, value = moment(12), random(12), random(7, seed=1)
    left, right = rank_one_factors(key, value, torch.zeros(7), c.solve(key[None])[0])
    assert torch.allclose(
        value[:, None] @ equality_duals(key[None], OrdinaryKeys(c, 1.0), 0.0), left @ right
    )


@pytest.mark.parametrize("n_past", [0, 3])
def test_alphaedit_solves_the_published_equation(n_past):
    width, out, n_facts = 12, 7, 5
    c, keys, residuals = moment(width), random(n_facts, width), random(n_facts, out, seed=1)
    past = random(n_past, width, seed=2)
    basis = null_space(c, 0.6)
    assert 0 < basis.shape[1] < width
    projector = basis @ basis.T
    epsilon = 0.2
    metric = protected(NullSpace(basis, epsilon), past)
    change = residuals.T @ least_squares_duals(keys, metric)
    middle = projector @ (keys.T @ keys + past.T @ past) + epsilon * torch.eye(width).double()
    expected = torch.linalg.solve(middle, projector @ keys.T @ residuals).T
    assert torch.allclose(change, expected, atol=1e-10)
    outside = torch.linalg.svd(projector - torch.eye(width).double())[0][
        :, : width - basis.shape[1]
    ]
    assert torch.allclose(change @ outside, torch.zeros(out, outside.shape[1]).double(), atol=1e-9)


def test_the_null_space_holds_its_share():
    c = moment(12)
    basis = null_space(c, 0.3)
    held = (basis.T @ c.matrix @ basis).trace() / c.matrix.trace()
    assert held <= 0.3
    assert basis.shape[1] >= 1
    assert null_space(c, 1e-9).shape[1] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_memit_against_algorithm_1_step_by_step(make_model, family):
    """Apply each layer's change for real and look everything up anew."""
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    config = fl.editing.MemitConfig(layers=(0, 1), second_moment_weight=0.5, **SHARED)
    known = background(lm)
    edit = fl.memit(lm, FACTS, config, known)
    contexts = known.contexts(lm, config.contexts)
    weights = context_weights(config.contexts, len(contexts))
    rows = [row for fact in FACTS for row in prompt_rows(lm, fact, [""])]

    def outputs() -> torch.Tensor:
        found = []
        layer = lm.layer(1)
        handle = layer.register_forward_hook(
            lambda *a: found.append((a[2][0] if isinstance(a[2], tuple) else a[2])[0, -1])
        )
        for row in rows:
            lm.model(torch.tensor([row.ids[: row.lookup + 1]]))
        handle.remove()
        return torch.stack(found).detach()

    start = outputs()
    deltas = torch.stack(
        [
            value.delta
            for value in optimise_values(
                lm,
                [ValueRequest(f, f.target_new) for f in FACTS],
                contexts,
                fl.hooks.Site(1, fl.hooks.Stream.BLOCK),
                config.value,
            )
        ]
    )
    applied = []
    for layer, left in ((0, 2), (1, 1)):
        keys = mean_keys(lm, FACTS, contexts, layer, weights).keys
        residuals = (start + deltas - outputs()) / left
        duals = least_squares_duals(keys, OrdinaryKeys(known.moments[layer], 0.5))
        tolerance = 1e-3 if family in SINGLE_INSIDE else 1e-8
        update = edit.updates[layer]
        expected = residuals.T @ duals
        assert torch.allclose(
            update.matrix(torch.float64, expected.device), expected, atol=tolerance
        )
        lm.patches.add([update])
        applied.append(update)
    lm.patches.remove(applied)


def test_one_fact_by_itself_is_that_of_the_batch(make_model):
    lm = make_model("llama", dtype=torch.float64)
    config = fl.editing.MemitConfig(layers=(0, 1), **SHARED)
    known = background(lm)
    each = fl.editing.memit_each(lm, FACTS, config, known)
    for fact, edit in zip(FACTS, each, strict=True):
        alone = fl.memit(lm, [fact], config, known)
        for one, other in zip(edit.updates, alone.updates, strict=True):
            assert torch.allclose(one.left @ one.right, other.left @ other.right, atol=1e-9)


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
def test_most_of_delta_is_brought_about(make_model, method):
    lm = make_model("gpt2", dtype=torch.float64)
    kinds = {
        "memit": fl.editing.MemitConfig,
        "emmet": fl.editing.EmmetConfig,
        "alphaedit": fl.editing.AlphaEditConfig,
    }
    more = {"memit": {"second_moment_weight": 0.1}, "alphaedit": {"null_share": 1.0}}
    config = kinds[method](
        layers=(0, 1), value=ValueConfig(steps=3, clamp_factor=0.1),
        contexts=ContextConfig(groups=()), **more.get(method, {}),
    )  # fmt: skip
    run = fl.edit_together(lm, FACTS[:3], method, config, background(lm))
    shares = run.edits[0].diagnostics["missing_shares"]
    assert shares[0] == 1
    assert shares[2] < 0.5 < shares[1] < 1


def test_many_facts_make_a_dense_change(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    facts = [fl.Fact("{} is", f"Rome {i}", "Paris") for i in range(lm.d_model + 1)]
    config = fl.editing.MemitConfig(
        layers=(0,), value=ValueConfig(steps=2), contexts=ContextConfig(groups=())
    )
    (update,) = fl.memit(lm, facts, config, background(lm)).updates
    assert type(update).__name__ == "DenseUpdate"
    few = fl.memit(lm, facts[:3], config, background(lm)).updates[0]
    assert few.rank == 3


def test_contradictions_are_refused_with_a_list(make_model):
    lm = make_model("gpt2")
    clash = [FACTS[1], fl.Fact("{} is", "Rome", "Berlin")]
    for method in ("memit", "emmet", "alphaedit", "ft"):
        with pytest.raises(InvalidRequestError, match=r"Paris.*Berlin|Berlin.*Paris"):
            fl.edit_together(lm, clash, method)


def test_keys_do_not_depend_on_batches(make_model):
    lm = make_model("llama", dtype=torch.float64)
    rows = [row for fact in FACTS for row in prompt_rows(lm, fact, ["", "Yes. "])]
    weights = context_weights(ContextConfig(), 2)

    def found():
        yield from keys_and_outputs(lm, rows, 1)[:2]
        yield from mean_keys(lm, FACTS, ["", "Yes. "], 1, weights)[:2]

    at_once = [*found()]
    lm.memory_gib = 1e-9
    for one, other in zip(at_once, found(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
def test_facts_that_do_not_fit_into_memory_are_written_all_the_same(make_model, method):
    lm = make_model("llama", dtype=torch.float64)
    config = METHODS[method].config(layers=(0, 1), **SHARED)

    def edit():
        return fl.edit_together(lm, FACTS[:3], method, config, background(lm)).edits[0]

    whole = edit()
    state = lm.budget.sizes.state
    for gib in (1e-9, 6 * 40 * state / 2**30):  # none wait at the layer; some do
        lm.memory_gib = gib
        cut = edit()
        for one, other in zip(whole.updates, cut.updates, strict=True):
            assert torch.allclose(
                one.matrix(torch.float64, lm.device),
                other.matrix(torch.float64, lm.device),
                atol=1e-9,
            )
        shares = whole.diagnostics["missing_shares"]
        assert cut.diagnostics["missing_shares"] == pytest.approx(shares)
