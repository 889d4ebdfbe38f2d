"""Edits in the formats of other libraries, read back by those libraries on their own."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import factlab as fl
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.editing.remembered import Remembered
from factlab.editing.shipping.thinned import ExportedAdapter
from factlab.errors import EditError, InvalidRequestError, StorageError, WrongModelError
from factlab.models.changes.update import DenseUpdate, LowRankUpdate

# Knows nothing of factlab: what anybody would write who was sent the folders.
SCRIPT = """
import json, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.contiguous()

found = {}
for case in json.load(open(sys.argv[1])):
    ids = torch.tensor([case["ids"]])
    base = AutoModelForCausalLM.from_pretrained(case["base"], dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, case["adapter"])
    found[case["name"] + ".adapter"] = logits(adapted, ids)
    found[case["name"] + ".unloaded"] = logits(adapted.merge_and_unload(), ids)
    merged = AutoModelForCausalLM.from_pretrained(case["merged"], dtype=torch.float32)
    found[case["name"] + ".merged"] = logits(merged, ids)
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=3, use_rslora=True, target_modules=["c_proj", "down_proj", "o_proj"],
        rank_pattern={r"1\\.mlp\\.\\w+": 2}, alpha_pattern={"0.mlp.down_proj": 5, "0.mlp.c_proj": 5},
        init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=case["name"] == "gpt2",
    )
    trained = get_peft_model(merged, config)
    trained.save_pretrained(case["trained"])
    found[case["name"] + ".trained"] = logits(trained, ids)
    tokenizer = AutoTokenizer.from_pretrained(case["merged"])
    assert tokenizer(case["text"])["input_ids"] == case["ids"]
assert "factlab" not in sys.modules
save_file(found, sys.argv[2])
"""
TEXT = "The Eiffel Tower is located in the city of"


def attention_name(lm: fl.LanguageModel, layer: int) -> str:
    anatomy = lm.layers.anatomy
    return f"{anatomy.layers}.{layer}.{anatomy.parts[layer].mixer.projection}.weight"


def edit_of(lm: fl.LanguageModel, *updates) -> fl.Edit:
    return fl.Edit("test", (), updates, BaseModelInfo.of(lm), {}, {}, current_versions())


def thin(lm, name: str, rank: int, seed: int) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    shape = lm.model.get_parameter(name).shape
    d_out, d_in = shape if lm.mlp_layout == "out_in" else shape[::-1]
    left = 0.2 * torch.randn(d_out, rank, generator=generator)
    return LowRankUpdate(name, lm.mlp_layout, left, torch.randn(rank, d_in, generator=generator))


def mixed_edit(lm: fl.LanguageModel) -> fl.Edit:
    """Two thin updates of one weight, a dense one of another, and another rank in attention."""
    first, second = (thin(lm, lm.mlp_weight_name(1), 2, seed) for seed in (0, 1))
    whole = thin(lm, lm.mlp_weight_name(2), 24, 2)
    dense = DenseUpdate(whole.weight_name, whole.layout, whole.left @ whole.right)
    return edit_of(lm, first, dense, second, thin(lm, attention_name(lm, 0), 1, 3))


def logits(lm: fl.LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([lm.encode(TEXT).ids])).logits


def test_other_libraries_load_adapter_and_checkpoint(make_model, tmp_path, monkeypatch):
    cases, expected, plain = [], {}, {}
    for family in ("gpt2", "llama"):
        lm = make_model(family)
        kinds = ("base", "adapter", "merged", "trained")
        folders = {kind: str(tmp_path / f"{family}-{kind}") for kind in kinds}
        edit = mixed_edit(lm)
        edit_of(lm).merge_into(lm, folders["base"])
        edit.merge_into(lm, folders["merged"])
        report = edit.to_peft(folders["adapter"])
        assert [(m.rank, round(m.kept_energy, 8)) for m in report.modules] == [
            (1, 1),
            (4, 1),
            (24, 1),
        ]
        plain[family] = logits(lm)
        with edit.applied(lm):
            expected[family] = logits(lm)
        ids = list(lm.encode(TEXT).ids)
        cases.append({"name": family, "ids": ids, "text": TEXT, **folders})
    manifest, out = tmp_path / "cases.json", tmp_path / "logits.safetensors"
    manifest.write_text(json.dumps(cases))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, manifest, out], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "missing" not in run.stderr.lower()
    found = load_file(out)
    for family, edited in expected.items():
        assert not torch.allclose(edited, plain[family], atol=0.1)
        for way in ("adapter", "unloaded", "merged"):
            assert torch.allclose(found[f"{family}.{way}"], edited, atol=1e-4), (family, way)
        lm = fl.load(tmp_path / f"{family}-merged")
        assert not torch.allclose(found[f"{family}.trained"], logits(lm), atol=0.1)
        trained = fl.Edit.from_peft(tmp_path / f"{family}-trained", lm)
        assert {u.rank for u in trained.updates} == {2, 4}
        with trained.applied(lm):
            assert torch.allclose(found[f"{family}.trained"], logits(lm), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_read_back_is_the_edit(make_model, tmp_path, family):
    lm = make_model(family)
    edit = mixed_edit(lm)
    edit.to_peft(tmp_path / "a")
    again = fl.Edit.from_peft(tmp_path / "a", lm)
    assert (again.method, again.facts, again.base) == ("peft", (), edit.base)
    assert again.config["base_model_name_or_path"] == f"tiny-{family}"
    with edit.applied(lm):
        expected = [p.detach().clone() for p in lm.model.parameters()]
    with again.applied(lm):
        for weight, other in zip(lm.model.parameters(), expected, strict=True):
            assert torch.allclose(weight, other, atol=1e-5)
    again.save(tmp_path / "e")
    assert [u.digest for u in fl.Edit.load(tmp_path / "e").updates] == [
        u.digest for u in again.updates
    ]


def test_the_files_are_what_peft_expects(make_model, tmp_path):
    lm = make_model("gpt2")
    mixed_edit(lm).to_peft(tmp_path / "a", max_rank=3)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    modules = [
        "transformer.h.0.attn.c_proj",
        "transformer.h.1.mlp.c_proj",
        "transformer.h.2.mlp.c_proj",
    ]
    assert config["target_modules"] == modules
    assert config["r"] == config["lora_alpha"] == 3
    assert config["rank_pattern"] == config["alpha_pattern"] == {modules[0]: 1}
    assert config["fan_in_fan_out"] is True
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{m}.lora_{x}.weight" for m in modules for x in "AB"}
    assert tensors[f"base_model.model.{modules[1]}.lora_A.weight"].shape == (3, 56)


def test_less_rank_keeps_less(make_model, tmp_path):
    lm = make_model("llama")
    edit = mixed_edit(lm)
    kept = []
    for rank in (1, 4, 16):
        report = edit.to_peft(tmp_path / str(rank), max_rank=rank)
        assert isinstance(report, ExportedAdapter)
        assert [m.rank for m in report.modules] == [1, min(rank, 4), rank]
        kept.append(report.modules[2].kept_energy)
    assert 0 < kept[0] < kept[1] < kept[2] < 1


def of_many_facts(lm, rank: int, seed: int = 0) -> fl.Edit:
    """Thin updates of two layers whose singular values fall, and the keys of as many facts."""
    generator = torch.Generator().manual_seed(seed)
    updates, keys = [], {}
    for layer in (1, 2):
        right = torch.randn(rank, lm.d_mlp, generator=generator)
        scales = torch.logspace(0, -2, rank)
        left = 0.1 * torch.randn(lm.d_model, rank, generator=generator) * scales
        updates.append(LowRankUpdate(lm.mlp_weight_name(layer), lm.mlp_layout, left, right))
        keys[f"keys.{layer}"] = right + 0.1 * torch.randn(rank, lm.d_mlp, generator=generator)
    facts = tuple(fl.Fact("{} is in", f"Place {i}", "Rome") for i in range(rank))
    left = (Remembered(facts, keys),)
    return replace(edit_of(lm, *updates), facts=facts, remembered=left)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("max_rank", [1, 5, 12])
def test_a_cut_is_that_of_the_whole_matrix(make_model, tmp_path, family, max_rank):
    """As if each change had been formed, decomposed in float64 and its largest parts kept."""
    lm = make_model(family)
    edit = of_many_facts(lm, 16)
    made = edit.to_peft(tmp_path / "a", max_rank)
    kept, total = 0.0, 0.0
    read = {u.weight_name: u for u in fl.Edit.from_peft(tmp_path / "a", lm).updates}
    for module, update in zip(made.modules, edit.updates, strict=True):
        whole = update.left.double() @ update.right.double()
        u, values, v = torch.linalg.svd(whole, full_matrices=False)
        best = u[:, :max_rank] * values[:max_rank] @ v[:max_rank]
        found = read[update.weight_name]
        product = found.left.double() @ found.right.double()
        assert torch.allclose(product, best, atol=1e-6 * float(values[0]))
        energy = values.square()
        share = float(energy[:max_rank].sum() / energy.sum())
        assert module.kept_energy == pytest.approx(share, rel=1e-9)
        assert (module.rank, module.full_rank) == (max_rank, 16)
        assert module.norm == pytest.approx(float(whole.norm()), rel=1e-6)
        layer = 1 if ".1." in update.weight_name else 2
        keys = edit.remembered[0].tensors[f"keys.{layer}"].double()
        moved = (keys @ (whole - best).T).norm() / (keys @ whole.T).norm()
        assert module.moved == pytest.approx(float(moved), rel=1e-4)
        kept, total = kept + float(energy[:max_rank].sum()), total + float(energy.sum())
    assert made.kept_energy == pytest.approx(kept / total, rel=1e-6)
    assert made.rank == max_rank


def test_thin_changes_are_cut_without_forming_them(make_model, tmp_path, monkeypatch):
    edit = of_many_facts(make_model("llama"), 16)

    def formed(*_args: object) -> torch.Tensor:
        raise AssertionError("the whole matrix was formed")

    monkeypatch.setattr(LowRankUpdate, "matrix", formed)
    made = edit.to_peft(tmp_path / "a", max_rank=4)
    assert 0.5 < made.kept_energy < 1


def test_a_rank_that_is_smaller_than_asked_is_left_as_it_is(make_model, tmp_path):
    lm = make_model("llama")
    edit = of_many_facts(lm, 6)
    made = edit.to_peft(tmp_path / "a", max_rank=6)
    edit.to_peft(tmp_path / "b", max_rank=512)
    edit.to_peft(tmp_path / "c")
    assert [(m.rank, m.kept_energy, m.moved) for m in made.modules] == [(6, 1.0, None)] * 2
    assert made.kept_energy == 1
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    name = f"base_model.model.{edit.updates[0].weight_name.removesuffix('.weight')}"
    assert torch.equal(tensors[f"{name}.lora_A.weight"], edit.updates[0].right)
    assert torch.equal(tensors[f"{name}.lora_B.weight"], edit.updates[0].left)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        same = {(tmp_path / folder / file).read_bytes() for folder in "abc"}
        assert len(same) == 1


def test_more_factors_than_a_matrix_has_rank(make_model, tmp_path):
    lm = make_model("llama")
    edit = of_many_facts(lm, 40)
    exact, cut = edit.to_peft(tmp_path / "a"), edit.to_peft(tmp_path / "b", max_rank=30)
    assert [m.rank for m in exact.modules] == [m.rank for m in cut.modules] == [lm.d_model] * 2
    assert exact.kept_energy == pytest.approx(1, abs=1e-9)
    read = fl.Edit.from_peft(tmp_path / "b", lm).updates[0]
    whole = edit.updates[0].left @ edit.updates[0].right
    assert torch.allclose(read.left @ read.right, whole, atol=1e-5)


def test_ranks_that_no_server_takes_are_told(make_model, tmp_path, caplog):
    lm = make_model("llama")
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(530, 520, generator=generator)
    right = torch.randn(520, 540, generator=generator)
    edit = edit_of(lm, LowRankUpdate(lm.mlp_weight_name(1), "out_in", left, right))
    assert edit.to_peft(tmp_path / "a").rank == 520
    assert [record.getMessage() for record in caplog.records] == [
        "The adapter has rank 520, and vLLM serves none above 512. Cut it with --max-rank 512 "
        "(max_rank=512), which says what is lost."
    ]
    caplog.clear()
    assert edit.to_peft(tmp_path / "b", max_rank=516).rank == 516
    assert edit.to_peft(tmp_path / "c", max_rank=512).rank == 512
    assert 0.99 < edit.to_gguf(tmp_path / "d.gguf").kept_energy <= 1  # llama.cpp takes any
    assert not caplog.records


@pytest.mark.parametrize("rank", [0, -1])
def test_ranks_that_are_none_are_refused(make_model, tmp_path, rank):
    edit = of_many_facts(make_model("llama"), 3)
    with pytest.raises(InvalidRequestError, match=f"Rank {rank} is too small"):
        edit.to_peft(tmp_path / "a", rank)
    with pytest.raises(InvalidRequestError, match=f"Rank {rank} is too small"):
        edit.to_gguf(tmp_path / "a.gguf", rank)
    assert not [*tmp_path.glob("a*")]


def test_every_layer_is_there_for_servers_that_stack_them(make_model, tmp_path):
    """TGI takes a kind of module only if all layers have it, and stacks their factors."""
    lm = make_model("llama")
    edit = edit_of(lm, thin(lm, lm.mlp_weight_name(1), 4, 0), thin(lm, attention_name(lm, 0), 1, 3))
    made = edit.to_peft(tmp_path / "a", every_layer=lm)
    assert [(m.module[-6:], m.rank) for m in made.modules] == [("o_proj", 1), ("n_proj", 4)]
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 4
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * lm.n_layers
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        for half in "AB":
            name = f"base_model.model.model.layers.{{}}.{part}.lora_{half}.weight"
            torch.stack([tensors[name.format(layer)] for layer in range(lm.n_layers)])
    again = fl.Edit.from_peft(tmp_path / "a", lm)
    with edit.applied(lm):
        expected = logits(lm)
    with again.applied(lm):
        assert torch.allclose(logits(lm), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_peft_adds_what_was_cut_or_filled_up(make_model, tmp_path, family):
    lm = make_model(family)
    edit = of_many_facts(lm, 8)
    edit.to_peft(tmp_path / "cut", max_rank=5)
    edit.to_peft(tmp_path / "whole", every_layer=lm)
    with fl.Edit.from_peft(tmp_path / "cut", lm).applied(lm):
        cut = logits(lm)
    with edit.applied(lm):
        edited = logits(lm)
    assert not torch.allclose(cut, edited, atol=1e-3)
    ids = torch.tensor([lm.encode(TEXT).ids])
    for folder, expected in (("cut", cut), ("whole", edited)):
        with torch.no_grad(), torch.random.fork_rng([]):
            adapted = PeftModel.from_pretrained(copy.deepcopy(lm.model), tmp_path / folder)
            assert torch.allclose(adapted(input_ids=ids).logits, expected, atol=1e-4), folder


def test_every_layer_is_refused_where_it_means_nothing(make_model, tmp_path):
    lm, other = make_model("llama"), make_model("gpt2")
    edit = edit_of(lm, thin(lm, lm.mlp_weight_name(1), 1, 0))
    with pytest.raises(WrongModelError, match="was made for tiny-llama"):
        edit.to_peft(tmp_path / "a", every_layer=other)
    head = LowRankUpdate("lm_head.weight", "out_in", torch.ones(9, 1), torch.ones(1, 24))
    with pytest.raises(EditError, match="'lm_head' is in no layer"):
        edit_of(lm, head).to_peft(tmp_path / "a", every_layer=lm)
    odd = LowRankUpdate(lm.mlp_weight_name(1), "out_in", torch.ones(9, 1), torch.ones(1, 24))
    with pytest.raises(
        EditError, match=r"Layers of tiny-llama differ: .* is 9 × 24, .* is 24 × 56"
    ):
        edit_of(lm, odd).to_peft(tmp_path / "a", every_layer=lm)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_what_servers_read(make_model, tmp_path, family, dtype):
    """Names, shapes and numbers as vLLM reads them: its `PEFTHelper` and `from_lora_tensors`."""
    lm = make_model(family, dtype=dtype)
    of_many_facts(lm, 8).to_peft(tmp_path / "a", max_rank=6)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["bias"], config["task_type"]) == (
        "LORA",
        "none",
        "CAUSAL_LM",
    )
    assert config["lora_alpha"] / config["r"] == 1
    assert not any(config.get(name) for name in ("use_dora", "use_rslora", "modules_to_save"))
    assert config["base_model_name_or_path"] == f"tiny-{family}"
    names = {lm.mlp_weight_name(layer).removesuffix(".weight") for layer in (1, 2)}
    assert {*config["target_modules"]} == names
    modules = dict(lm.model.named_modules())
    for key, tensor in load_file(tmp_path / "a" / "adapter_model.safetensors").items():
        prefix, module, half = re.fullmatch(
            r"(base_model\.model\.)(.+)\.lora_([AB])\.weight", key
        ).groups()
        assert prefix
        assert module in modules
        expected = {"A": (config["r"], lm.d_mlp), "B": (lm.d_model, config["r"])}
        assert tensor.shape == expected[half]
        assert tensor.dtype == torch.float32


def test_what_lora_cannot_express_is_refused(make_model, tmp_path):
    lm = make_model("gpt2")
    good = thin(lm, lm.mlp_weight_name(1), 1, 0)

    def named(name: str, layout: str = "in_out") -> fl.Edit:
        return edit_of(lm, LowRankUpdate(name, layout, good.left, good.right))

    for name in ("transformer.h.1.mlp.c_proj.bias", "transformer.wte.weight", "weight"):
        with pytest.raises(EditError, match=r"and '.*' is none"):
            named(name).to_peft(tmp_path / "a")
    other = named("transformer.h.2.mlp.c_proj.weight", "out_in").updates[0]
    with pytest.raises(EditError, match="has 2 layouts"):
        edit_of(lm, good, other).to_peft(tmp_path / "a")
    with pytest.raises(EditError, match="changes no weights"):
        edit_of(lm).to_peft(tmp_path / "a")
    with pytest.raises(InvalidRequestError, match="Rank 0"):
        edit_of(lm, good).to_peft(tmp_path / "a", max_rank=0)
    with edit_of(lm, good).applied(lm):
        second = edit_of(lm, thin(lm, lm.mlp_weight_name(1), 1, 1))
    with pytest.raises(EditError, match="does not stand alone"):
        second.to_peft(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    fl.editing.combine([edit_of(lm, good), second]).to_peft(tmp_path / "a")
    with pytest.raises(StorageError, match="is not empty"):
        edit_of(lm, good).to_peft(tmp_path / "a")


@pytest.fixture
def adapter(make_model, tmp_path):
    """A written adapter, and a function that changes its config."""
    lm = make_model("llama")
    mixed_edit(lm).to_peft(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    good = json.loads(path.read_text())

    def saying(**change: object) -> Path:
        path.write_text(json.dumps(good | change))
        return tmp_path / "a"

    return lm, saying


def test_scaling_and_patterns_are_honoured(adapter):
    lm, saying = adapter
    plain = {u.weight_name: u for u in fl.Edit.from_peft(saying(), lm).updates}
    target = lm.mlp_weight_name(1)

    def scale(**change: object) -> float:
        updates = fl.Edit.from_peft(saying(**change), lm).updates
        return next(u.norm for u in updates if u.weight_name == target) / plain[target].norm

    ranks = {"layers.0.self_attn.o_proj": 1, r".*\.1\.mlp\.down_proj": 4}
    assert scale(rank_pattern=ranks) == pytest.approx(1)
    assert scale(lora_alpha=6, alpha_pattern={}) == pytest.approx(6 / 4)
    assert scale(lora_alpha=6, alpha_pattern={}, use_rslora=True) == pytest.approx(6 / 2)
    assert scale(alpha_pattern={"1.mlp.down_proj": 2.5}) == pytest.approx(2.5 / 4)
    assert scale(alpha_pattern={"2.mlp.down_proj": 2.5}, lora_alpha=4) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_alpha": float("nan")}, "NaN is no number in JSON"),
        ({"lora_alpha": float("inf")}, "Infinity is no number in JSON"),
        ({"lora_alpha": 1e308}, "which is more than torch.float32 can hold"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"alpha_pattern": {"1.mlp.down_proj": -1e300}}, "more than torch.float32 can hold"),
        ({"r": 0}, "r: Input should be greater than 0"),
        ({"rank_pattern": {"1.mlp.down_proj": 0}}, "should be greater than 0"),
        ({"rank_pattern": {r"(?:(.|\w)+)+\b\B": 2}}, "takes longer than 1 s"),
        ({"alpha_pattern": {"(a{60000}){60000}": 2}}, "repeats its parts 3600000000 times"),
        ({"alpha_pattern": {"(" * 5000 + ")" * 5000: 2}}, "is not a regular expression"),
    ],
)
def test_numbers_and_patterns_that_no_adapter_has_are_refused(adapter, change, said):
    lm, saying = adapter
    with pytest.raises(fl.FactlabError, match=said):
        fl.Edit.from_peft(saying(**change), lm)


def test_a_pattern_that_could_take_for_ever_may_end(adapter):
    lm, saying = adapter
    read = fl.Edit.from_peft(saying(alpha_pattern={"((.+)+)+!": 2}), lm)  # is of no module
    assert all(torch.isfinite(update.left).all() for update in read.updates)


def test_factors_of_bytes_are_refused(adapter, tmp_path):
    lm, saying = adapter
    path = saying() / "adapter_model.safetensors"
    for dtype in (torch.float8_e4m3fn, torch.int8):
        save_file({name: t.to(dtype) for name, t in load_file(path).items()}, path)
        with pytest.raises(EditError, match="16-bit floats or larger"):
            fl.Edit.from_peft(tmp_path / "a", lm)


def test_the_bundled_model_goes_by_its_hub_id(make_model, tmp_path):
    edit = mixed_edit(make_model("llama"))
    base = edit.base.model_copy(update={"name": "SmolLM2-135M-Instruct"})
    replace(edit, base=base).to_peft(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


NOT_PLAIN = {
    "another type": ({"peft_type": "LOHA"}, "its type is LOHA"),
    "dora": ({"use_dora": True}, "it has use_dora=True"),
    "biases": ({"bias": "all"}, "changes biases"),
    "biases of its own": ({"lora_bias": True}, "lora_bias=True"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "the first layer": ({"layers_to_transform": 0}, "layers_to_transform=0"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "a base of its own": ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
    "the future": ({"use_anything_new": True}, "use_anything_new"),
    "wrong rank": ({"r": 5, "rank_pattern": {}}, "rank 5 in tiny-llama needs"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_adapters_are_refused_with_a_reason(adapter, name):
    lm, saying = adapter
    change, message = NOT_PLAIN[name]
    with pytest.raises(EditError, match=message):
        fl.Edit.from_peft(saying(**change), lm)


def test_damaged_adapters_are_named(adapter, make_model, tmp_path):
    lm, saying = adapter
    for change, message in (
        ({"r": "many"}, "r: Input should be"),
        ({"rank_pattern": {"(": 3}}, "not a regular expression"),
    ):
        with pytest.raises(StorageError, match=message):
            fl.Edit.from_peft(saying(**change), lm)
    with pytest.raises(EditError, match="linear module 'model"):
        fl.Edit.from_peft(saying(), make_model("gpt2"))
    path = saying() / "adapter_model.safetensors"
    good = load_file(path)
    first = next(iter(good))
    save_file(good | {"base_model.model.lm_head.weight": torch.zeros(1)}, path)
    with pytest.raises(EditError, match=r"holds the tensor 'base_model.model.lm_head.weight'"):
        fl.Edit.from_peft(tmp_path / "a", lm)
    save_file({k: v for k, v in good.items() if k != first}, path)
    with pytest.raises(StorageError, match="factors are missing"):
        fl.Edit.from_peft(tmp_path / "a", lm)
    save_file(good | {first: good[first] * torch.nan}, path)
    with pytest.raises(EditError, match="NaN"):
        fl.Edit.from_peft(tmp_path / "a", lm)
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(StorageError, match=r"has no adapter_model\.safetensors"):
        fl.Edit.from_peft(tmp_path / "a", lm)


def test_an_adapter_of_one_of_two_tied_modules_is_refused(make_model, tmp_path):
    lm = make_model("gpt2")
    good = thin(lm, lm.mlp_weight_name(1), 1, 0)
    edit_of(lm, LowRankUpdate("lm_head.weight", "out_in", good.left, good.right)).to_peft(
        tmp_path / "a"
    )
    with pytest.raises(EditError, match=r"shared by transformer\.wte\.weight and lm_head\.weight"):
        fl.Edit.from_peft(tmp_path / "a", lm)
