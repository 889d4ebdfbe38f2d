"""KE: the form of its update."""

import pytest
import torch
from test_mend import batch_of

import factlab as fl
from factlab.editing.trained.configs import KeConfig
from factlab.editing.trained.gradients import last_matrices, token_gradients
from factlab.editing.trained.ke import Ke
from model_families import HABITS


def embedded(lm, batch):
    return [lm.embedding.weight[list(reading.ids)].detach() for reading in batch.continuations]


@pytest.mark.parametrize("family", HABITS)
def test_the_change_is_the_gated_gradient(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    matrices = last_matrices(lm, 2)
    config = KeConfig(n_blocks=2, hidden=6, condition=5, max_scale=0.7)
    ke, batch = Ke(matrices, lm.d_model, config).double(), batch_of(lm)
    with lm.frozen(), torch.no_grad():
        gradients = token_gradients(lm, batch, matrices)
        changes = ke(gradients, embedded(lm, batch))
        conditions = ke.conditions(embedded(lm, batch))
    for matrix in matrices:
        name = matrix.weight_name
        gate, a_rows, a_columns, b_rows, b_columns = conditions[name]
        assert ((gate > 0) & (gate < 0.7)).all()
        for rows in (a_rows, b_rows):  # softmax over outputs
            assert torch.allclose(rows.sum(-1), torch.ones(2, dtype=torch.float64))
        a = torch.einsum("fo,fi->foi", a_rows, a_columns)
        b = torch.einsum("fo,fi->foi", b_rows, b_columns)
        assert torch.linalg.matrix_rank(a).tolist() == [1, 1]
        assert torch.linalg.matrix_rank(b).tolist() == [1, 1]
        expected = gate[:, None, None] * (gradients[name].dense() * a + b)
        assert torch.allclose(changes[name].dense(), expected, atol=1e-14)
        assert changes[name].left.shape[1] == gradients[name].inputs.shape[1] + 1


def test_the_conditioner_has_the_published_form(make_model):
    lm = make_model("llama")
    matrices = last_matrices(lm, 3)
    ke = Ke(matrices, lm.d_model, KeConfig())
    assert (ke.lstm.hidden_size, ke.lstm.bidirectional, ke.lstm.num_layers) == (512, True, 1)
    assert [m.out_features for m in ke.encoder if isinstance(m, torch.nn.Linear)] == [768]
    assert len(ke.conditioners) == len(matrices) == 9
    for matrix, network in zip(matrices, ke.conditioners, strict=True):
        sizes = [m.out_features for m in network if isinstance(m, torch.nn.Linear)]
        assert sizes == [512, 2 * (matrix.d_in + matrix.d_out) + 1]


def test_texts_in_a_batch_do_not_see_each_other(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    ke = Ke(last_matrices(lm, 1), lm.d_model, KeConfig(n_blocks=1, hidden=6, condition=5)).double()
    texts = embedded(lm, batch_of(lm))
    assert len(texts[0]) != len(texts[1])
    with torch.no_grad():
        together = ke.encoded(texts)
        for text, expected in zip(texts, together, strict=True):
            assert torch.allclose(ke.encoded([text])[0], expected)
        # It reads the target too.
        other = torch.cat([texts[0][:-1], texts[0][:1]])
        assert not torch.allclose(ke.encoded([other])[0], together[0])


def test_its_settings_are_checked():
    with pytest.raises(ValueError, match="hidden"):
        KeConfig(hidden=0)
    assert isinstance(fl.FactlabError(), Exception)
