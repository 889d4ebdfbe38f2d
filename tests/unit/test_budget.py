"""How much memory may be used, and how the size of every batch follows from it."""

import json

import pytest
import torch

import factlab as fl
from factlab.config import Config, without_retired
from factlab.errors import InvalidRequestError, MemoryLimitError
from factlab.models import free_memory
from factlab.models.budget import Budget, Sizes, default_gib
from factlab.models.free_memory import free_bytes

SIZES = Sizes(state=100, hidden=400, layer=2000, gradient=50_000, cached=1000, logits=1_000_000)
CPU = torch.device("cpu")


# -- from memory to tokens ------------------------------------------------------------------------


def test_the_smaller_of_two_limits():
    small, large = (Budget(gib, SIZES, on_cpu=True) for gib in (0.001, 1000))
    assert large.pass_tokens() > small.pass_tokens() > 1
    assert large.gradient_tokens() == Budget(2000, SIZES, on_cpu=True).gradient_tokens()
    assert small.gradient_tokens() == pytest.approx(0.001 * 2**30 / 50_000, abs=1)
    assert small.gradient_tokens(share=0.5) == pytest.approx(small.gradient_tokens() / 2, abs=1)
    # The vocabulary takes as much as twenty tokens do in the layers.
    assert small.gradient_tokens(read=1.0) == small.gradient_tokens() // 21
    assert Budget(1000, SIZES, on_cpu=False).gradient_tokens() > large.gradient_tokens()


def test_one_is_always_possible():
    least = Budget(1e-12, SIZES, on_cpu=True)
    assert (least.pass_tokens(), least.piece_tokens, least.gradient_tokens()) == (1, 1, 1)
    assert least.readout_tokens == least.at_most(1e9) == 1


def test_what_is_kept_besides_counts():
    budget = Budget(0.01, SIZES, on_cpu=True)
    assert budget.pass_tokens(kept=10_000) < budget.pass_tokens()


@pytest.mark.parametrize("gib", [0, -1, float("nan"), float("inf"), True])
def test_no_amount_of_memory(make_model, gib):
    lm = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match=r"\(--memory-gib\) must be a number of GiB"):
        lm.memory_gib = gib
    with pytest.raises(InvalidRequestError, match=r"\(--memory-gib\) must be a number of GiB"):
        fl.load("tiny:gpt2", memory_gib=gib)


def test_sizes_are_those_of_the_model(make_model):
    single, double = (make_model("llama", dtype=d) for d in (torch.float32, torch.float64))
    sizes = single.budget.sizes
    assert sizes.state == 4 * single.d_model
    assert double.budget.sizes.state == 2 * sizes.state
    config = single.model.config  # of which two heads share their keys
    heads, width = config.num_key_value_heads, config.head_dim
    assert sizes.cached == 4 * 2 * single.n_layers * heads * width
    assert sizes.logits >= 3 * 4 * single.embedding.num_embeddings


# -- what is free ---------------------------------------------------------------------------------


def test_the_default_is_half_of_what_is_free_and_stays(make_model, monkeypatch):
    free = 11 * 2**30
    monkeypatch.setattr("factlab.models.budget.free_bytes", lambda _device: free)
    assert default_gib([CPU]) == 4
    lm = make_model("gpt2")
    assert lm.memory_gib == 4
    monkeypatch.setattr("factlab.models.budget.free_bytes", lambda _device: free // 10)
    assert lm.memory_gib == 4
    lm.memory_gib = 3
    assert lm.memory_gib == 3
    lm.memory_gib = None
    assert lm.memory_gib == 0.5
    monkeypatch.setattr("factlab.models.budget.free_bytes", lambda _device: None)
    assert default_gib([CPU]) > 0


def test_the_least_of_several_devices_counts(monkeypatch):
    free = {"cpu": 64 * 2**30, "cuda": 8 * 2**30}
    monkeypatch.setattr("factlab.models.budget.free_bytes", lambda device: free[device.type])
    assert default_gib([CPU, torch.device("cuda")]) == 4


def test_a_container_has_less_than_the_machine(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "own").write_text("0::/box\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path)
    assert free_bytes(CPU) == 8000 * 1024
    box = tmp_path / "box"
    box.mkdir()
    (box / "memory.max").write_text("max\n")
    (box / "memory.current").write_text("5000\n")
    assert free_bytes(CPU) == 8000 * 1024
    (box / "memory.max").write_text("7000\n")
    assert free_bytes(CPU) == 2000
    (box / "memory.stat").write_text("anon 4000\ninactive_file 500\n")
    assert free_bytes(CPU) == 2500


def test_a_container_of_the_first_version(tmp_path, monkeypatch):
    (tmp_path / "own").write_text("4:cpu,memory:/box\n3:cpuset:/else\n")
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path)
    box = tmp_path / "memory" / "box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text("7000\n")
    (box / "memory.usage_in_bytes").write_text("5000\n")
    assert free_bytes(CPU) == 2000


# -- when there is none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
    ids=["linux", "windows", "cuda", "python"],
)
def test_memory_that_runs_out_says_what_to_do(make_model, error):
    lm = make_model("gpt2")
    lm.memory_gib = 3
    with (
        pytest.raises(MemoryLimitError, match=r"--memory-gib 1\.5 .* lm\.memory_gib = 1\.5 in"),
        lm.frozen(),
        lm.frozen(),
    ):
        raise error


def test_other_errors_are_left_alone(make_model):
    lm = make_model("gpt2")
    for error in (RuntimeError("shapes differ"), fl.errors.EditError("not enough memory of it")):
        with pytest.raises(type(error), match=str(error)), lm.frozen():
            raise error


# -- settings of earlier versions -----------------------------------------------------------------


def test_files_may_have_settings_that_are_gone():
    old = {"samples": 9, "max_batch_tokens": 64}
    assert fl.tracing.TraceConfig.model_validate(old) == fl.tracing.TraceConfig(samples=9)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (fl.tracing.TraceConfig, {"max_batch_tokens": 9}),
        (fl.tracing.TraceConfig, {"max_batch_tokens": None}),
        (fl.editing.ValueConfig, {"max_batch_tokens": 64}),
        (fl.editing.FineTuneConfig, {"max_batch_tokens": 64}),
        (fl.editing.KnConfig, {"max_batch_tokens": 64}),
        (fl.neurons.NeuronConfig, {"max_batch_tokens": 64}),
        (fl.editing.TrainConfig, {"memory_gib": 4.0}),
        (fl.editing.TrainConfig, {"examples_at_once": 2}),
        (fl.editing.TrainedEditConfig, {"max_batch_tokens": 64}),
    ],
)
def test_a_person_is_told_what_has_taken_their_place(kind, values):
    with pytest.raises(InvalidRequestError, match=r"--memory-gib .*lm\.memory_gib = 4"):
        kind(**values)


def test_another_config_may_have_such_a_name():
    class Mine(Config):
        memory_gib: float = 1.0

    assert Mine(memory_gib=2.0).memory_gib == Mine.model_validate({"memory_gib": 2.0}).memory_gib


def test_runs_that_differ_in_memory_are_the_same_run():
    old = {"config": {"value": {"steps": 1, "max_batch_tokens": 64}, "layers": [{"a": 1}]}}
    assert without_retired(old) == {"config": {"value": {"steps": 1}, "layers": [{"a": 1}]}}
    assert json.dumps(without_retired([None, 1, "x"])) == '[null, 1, "x"]'


@pytest.mark.parametrize(
    "old",
    [
        ("eval", "--out", "x", "--memory", "2"),
        ("edit", "{} is", "--subject", "Rome", "--target", "big", "--max-batch-tokens=64"),
        ("trace", "Rome is", "--subject", "Rome", "--max-batch-tokens", "64"),
    ],
    ids=lambda old: old[0],
)
def test_options_of_earlier_versions_name_the_new_one(run, old):
    code, out, err = run(*old)
    assert (code, out) == (2, "")
    option = next(arg.partition("=")[0] for arg in old if arg.startswith("--m"))
    assert f"There is no {option} any more" in err
    assert "--memory-gib 4" in err


def test_settings_of_a_command_are_refused_too(run):
    command = ("edit", "{} is", "--subject", "Rome", "--target", "big", "--model", "tiny:gpt2")
    code, _, err = run(*command, "--set", "value.max_batch_tokens=64")
    assert code == 2
    assert "--memory-gib" in err


def test_an_option_says_how_much_memory(run, monkeypatch):
    seen = []
    check = fl.LanguageModel.top_tokens
    monkeypatch.setattr(
        fl.LanguageModel,
        "top_tokens",
        lambda lm, *args: seen.append(lm.memory_gib) or check(lm, *args),
    )
    assert run("ask", "Rome is", "--model", "tiny:gpt2", "--memory-gib", "0.5")[0] == 0
    assert seen == [0.5]
    code, _, err = run("ask", "Rome is", "--model", "tiny:gpt2", "--memory-gib", "0")
    assert code == 2
    assert "(--memory-gib) must be a number of GiB above 0" in err
