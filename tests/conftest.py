"""Fixtures: models of every family, and the promise that computing changes nothing."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tiny models are fastest on one thread, in the processes that tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

import factlab as fl
from factlab.cli import main
from model_families import MakeModel

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("factlab", deadline=None)
settings.load_profile("factlab")


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread; slow tests that run side by side share the cores."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, (cores or 1) // workers) if "slow" in request.keywords else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> None:
    """Every test has a cache of its own; slow ones share the user's, where the bundled model is."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("FACTLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_kept_values(monkeypatch) -> None:
    """Values are optimised whenever they are asked for: tests compare ways to optimise them."""
    monkeypatch.setenv("FACTLAB_VALUES_MIB", "0")


def _state_of(lm: fl.LanguageModel) -> tuple[object, ...]:
    modules = list(lm.model.modules())
    return (
        [(n, p.detach().clone(), p.requires_grad) for n, p in lm.model.named_parameters()],
        [m.training for m in modules],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        lm.tokenizer.padding_side,
    )


@pytest.fixture
def make_model() -> Iterator[MakeModel]:
    """Make tiny models; at the end they and all random states must be as they were."""
    made: list[tuple[fl.LanguageModel, tuple[object, ...]]] = []
    random_states = (torch.get_rng_state(), np.random.get_state()[1].copy())

    def make(family: str, **kwargs: object) -> fl.LanguageModel:
        lm = fl.models.tiny_model(family, **kwargs)
        made.append((lm, _state_of(lm)))
        return lm

    yield make
    for lm, (weights, *rest) in made:
        now, *rest_now = _state_of(lm)
        for (name, before, grad), (_, after, grad_after) in zip(weights, now, strict=True):
            assert torch.equal(before, after), f"{name} changed"
            assert grad == grad_after, f"{name}.requires_grad changed"
        assert rest == rest_now, "training mode, hooks or tokenizer changed"
    assert torch.equal(random_states[0], torch.get_rng_state())
    assert (random_states[1] == np.random.get_state()[1]).all()


@pytest.fixture
def model_folder(make_model, tmp_path) -> Path:
    """A tiny model as transformers saves it."""
    lm = make_model("llama")
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command: exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["factlab", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fact() -> fl.Fact:
    return fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")


@pytest.fixture(scope="session")
def bundled() -> fl.LanguageModel:
    return fl.load(device="cpu")
