"""Large matrices: the same results wherever they are worked on."""

import pytest
import torch
from fake_device import GPU, FakeGpu

from factlab import large_matrices
from factlab.large_matrices import near

N = 12


def matrix():
    rows = torch.randn(3 * N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return rows.T @ rows


def columns():
    return torch.arange(2.0 * N, dtype=torch.float64).reshape(N, 2).sin()


WORK = {
    "cholesky": lambda: large_matrices.cholesky(matrix()),
    "cholesky_solve": lambda: [
        large_matrices.cholesky_solve(columns(), torch.linalg.cholesky(matrix()))
    ],
    "cholesky_inverse": lambda: [
        large_matrices.cholesky_inverse(torch.linalg.cholesky(matrix()))
    ],
    "eigh": lambda: large_matrices.eigh(matrix()),
    "solve": lambda: [large_matrices.solve(matrix(), columns())],
    "product": lambda: [large_matrices.product(columns().T, matrix())],
}  # fmt: skip
EXPECTED = {
    "cholesky": lambda: (torch.linalg.cholesky(matrix()), torch.tensor(0)),
    "cholesky_solve": lambda: [torch.linalg.inv(matrix()) @ columns()],
    "cholesky_inverse": lambda: [torch.linalg.inv(matrix())],
    "eigh": lambda: torch.linalg.eigh(matrix()),
    "solve": lambda: [torch.linalg.inv(matrix()) @ columns()],
    "product": lambda: [columns().T @ matrix()],
}


def is_fetched(gpu, run):
    before = gpu.waits.fetched.total()
    found = run()
    assert all(each.device.type == "cpu" for each in found)
    return gpu.waits.fetched.total() > before


@pytest.mark.parametrize("name", WORK)
def test_work_goes_where_it_is_quickest_and_comes_back(monkeypatch, name):
    for found, expected in zip(WORK[name](), EXPECTED[name](), strict=True):
        torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-9, atol=1e-12)
    with FakeGpu() as gpu:
        with near(GPU):
            assert not is_fetched(gpu, WORK[name]), "so little is not worth the way"
        monkeypatch.setattr(large_matrices, "WORTH_THE_WAY", 0)
        assert not is_fetched(gpu, WORK[name]), "no device was named"
        with near(torch.device("cpu")):
            assert not is_fetched(gpu, WORK[name])
        with near(GPU):
            assert is_fetched(gpu, WORK[name])
            there = WORK[name]()
        assert not is_fetched(gpu, WORK[name])
    for found, expected in zip(there, WORK[name](), strict=True):
        assert torch.equal(found, expected)


def test_what_does_not_fit_there_is_done_here(monkeypatch):
    monkeypatch.setattr(large_matrices, "WORTH_THE_WAY", 0)
    tried = []

    def out_of_memory(given):
        tried.append(given.device)
        if given.device == GPU:
            raise torch.OutOfMemoryError
        return given[0].exp(), given

    monkeypatch.setattr(torch.linalg, "eigh", out_of_memory)
    with FakeGpu(), near(GPU):
        values, _ = large_matrices.eigh(matrix())
    assert tried == [GPU, torch.device("cpu")]
    assert torch.equal(values, matrix()[0].exp())
