"""Models whose weights are not plain: quantised in several ways, or offloaded by accelerate."""

import warnings

import accelerate
import pytest
import torch
from packaging.version import Version
from peft import PeftModel
from tiny_records import background
from torch import nn
from torch.nn import functional

import factlab as fl
from factlab.editing.edit import BaseModelInfo
from factlab.errors import (
    EditError,
    InvalidRequestError,
    ModelLoadError,
    UnsupportedModelError,
    WrongModelError,
)
from factlab.models.changes.carried import carrying, row_changes
from factlab.models.changes.ride import Ride, riding
from factlab.models.changes.update import LowRankUpdate
from factlab.models.stored import device_of, offloaded, stored
from factlab.projections import is_affine, matrix_of, passes_gradient

FACT = fl.Fact("The {} is in", "Eiffel Tower", "Rome", "Paris")


# -- stand-ins for what quantisation libraries put in place of nn.Linear ---------------------------


class Int8Linear(nn.Module):
    """Weights of 8 bits with a scale for each row, as those of many libraries."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def dequantised(self):
        return self.weight.to(self.scale.dtype) * self.scale

    def forward(self, x):
        return functional.linear(x, self.dequantised().to(x.dtype))


class Packed4bit(nn.Module):
    """Two weights in a byte, all in buffers, as GPTQ and AWQ keep them."""

    def __init__(self, linear):
        super().__init__()
        self.infeatures, self.outfeatures = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scales = weight.abs().amax(1, keepdim=True) / 7
        steps = ((weight / scales).round() + 8).to(torch.uint8)
        self.register_buffer("qweight", steps[:, ::2] | (steps[:, 1::2] << 4))
        self.register_buffer("scales", scales)

    def dequantised(self):
        halves = torch.stack([self.qweight & 15, self.qweight >> 4], dim=-1)
        return (halves.flatten(1).to(self.scales.dtype) - 8) * self.scales

    def forward(self, x):
        return functional.linear(x, self.dequantised().to(x.dtype))


class FP8Linear(nn.Linear):
    """Floats of 8 bits, inputs rounded to them too, with a backward pass of its own."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        weight = linear.weight.detach()
        self.scale = nn.Parameter(weight.abs().max() / 448, requires_grad=False)
        eighth = (weight / self.scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(eighth, requires_grad=False)

    def dequantised(self):
        return self.weight.to(self.scale.dtype) * self.scale

    def forward(self, x):
        size = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
        rounded = (x.detach() / size).to(torch.float8_e4m3fn).to(x.dtype) * size
        return functional.linear(x + (rounded - x.detach()), self.dequantised().to(x.dtype))


class TwoParts(torch.Tensor):
    """A tensor that says it is of floats and holds integers and scales, as torchao's do."""

    @staticmethod
    def __new__(cls, steps, scales):
        return torch.Tensor._make_wrapper_subclass(cls, steps.shape, dtype=scales.dtype)

    def __init__(self, steps, scales):
        self.steps, self.scales = steps, scales

    def __tensor_flatten__(self):
        return ["steps", "scales"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, _meta, _size, _stride):
        return cls(inner["steps"], inner["scales"])

    def dequantize(self):
        return self.steps.to(self.scales.dtype) * self.scales

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        del types
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].steps, args[0].scales)
        plain = [a.dequantize() if isinstance(a, TwoParts) else a for a in args]
        return func(*plain, **(kwargs or {}))


def wrapped(linear):
    """The class itself, with another tensor in it."""
    weight = linear.weight.detach()
    scales = weight.abs().amax(1, keepdim=True) / 127
    steps = (weight / scales).round().to(torch.int8)
    linear.weight = nn.Parameter(TwoParts(steps, scales), requires_grad=False)
    return linear


KINDS = {"int8": Int8Linear, "4bit": Packed4bit, "fp8": FP8Linear, "subclass": wrapped}


def quantised(kind, family="llama", layers=(0, 1, 2)):
    """A toy with its projections quantised, but for the head."""
    toy = fl.models.tiny_model(family)
    for name, module in list(toy.model.named_modules()):
        number = next((int(part) for part in name.split(".") if part.isdecimal()), None)
        if type(module) is nn.Linear and number in layers:
            toy.model.set_submodule(name, KINDS[kind](module))
    return toy.model, toy.tokenizer


def offloaded_model(place, tmp_path, family="llama"):
    if place == "disk" and Version(accelerate.__version__) < Version("1.11"):
        pytest.skip(f"accelerate {accelerate.__version__} does not put all of a model on disk")
    toy = fl.models.tiny_model(family)
    if place == "cpu":
        accelerate.cpu_offload(toy.model, execution_device="cpu")
    else:
        modules = dict.fromkeys(_blocks(toy.model), "disk")
        accelerate.dispatch_model(
            toy.model, modules, main_device="cpu", offload_dir=str(tmp_path / place)
        )
    return toy.model, toy.tokenizer


def _blocks(model):
    base = model.get_submodule(model.base_model_prefix)
    names = [f"{model.base_model_prefix}.{name}" for name, _ in base.named_children()]
    return [*names, *(n for n, _ in model.named_children() if n != model.base_model_prefix)]


def made(kind, tmp_path, family="llama"):
    if kind in KINDS:
        return quantised(kind, family)
    return offloaded_model(kind, tmp_path, family)


ALL = [*KINDS, "cpu", "disk"]


@pytest.fixture(params=ALL)
def lm(request, tmp_path):
    """A wrapped model that must be unchanged at the end of the test."""
    model, tokenizer = made(request.param, tmp_path)
    lm = fl.LanguageModel(model, tokenizer, name=request.param)
    before = lm.live_fingerprint
    hooks = _hooks(model)
    flags = [p.requires_grad for p in model.parameters()]
    yield lm
    assert lm.live_fingerprint == before
    assert _hooks(model) == hooks
    assert [p.requires_grad for p in model.parameters()] == flags


def _hooks(model):
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m), m.training)
        for m in model.modules()
    ]


# -- asking and tracing ----------------------------------------------------------------------------


def test_asked_as_its_own_forward_pass_says(lm):
    assert lm.engine.name == "replay"
    ids = lm.tokenizer(FACT.prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = lm.model(input_ids=ids).logits[0, -1].float().softmax(-1)
    torch.testing.assert_close(lm.next_token_probs([FACT.prompt])[0], expected)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, of offloaded weights
        said = lm.model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    written = lm.generate(FACT.prompt, max_new_tokens=4)
    assert written == lm.tokenizer.decode(said[0], skip_special_tokens=True)
    assert lm.device.type == "cpu"
    assert lm.memory_gib > 0


def test_traced_as_whole_passes_say(lm):
    kinds = ("block", "mlp", "attn", "mlp_severed")
    config = fl.tracing.TraceConfig(samples=2, window=2, kinds=kinds, seed=3)
    for rung in ("trace", "windows", "severed"):
        assert lm.abilities.rungs[rung].can
    replayed = fl.causal_trace(lm, FACT, config=config)
    lm.engine.takes_embedding = True  # so that whole passes are made
    whole = fl.causal_trace(lm, FACT, config=config)
    lm.engine.takes_embedding = False
    for kind in kinds:
        torch.testing.assert_close(
            replayed.effects[kind], whole.effects[kind], rtol=1e-3, atol=1e-6
        )
    assert replayed.fingerprint == lm.fingerprint
    estimate = fl.tracing.TraceConfig(samples=2, window=2, method="gradient", seed=3)
    assert torch.isfinite(fl.causal_trace(lm, FACT, config=estimate).effects["mlp"]).all()


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_the_fingerprint_is_of_the_bits(kind, tmp_path):
    one, other = (fl.LanguageModel(*made(kind, tmp_path / str(i))) for i in range(2))
    assert one.fingerprint == other.fingerprint
    if kind in KINDS:
        assert one.fingerprint != fl.models.tiny_model("llama").fingerprint
        part = one.model.model.layers[1].mlp.up_proj
        scale = {
            "int8": lambda: part.scale,
            "4bit": lambda: part.scales,
            "fp8": lambda: part.scale,
            "subclass": lambda: part.weight.data.scales,
        }[kind]()
        with torch.no_grad():
            scale.view(-1)[0] *= 2
        changed = one.fingerprint
        assert changed != other.fingerprint
        with torch.no_grad():
            scale.view(-1)[0] /= 2
        assert one.fingerprint == other.fingerprint
    else:  # the same bits, somewhere else
        assert one.fingerprint == fl.models.tiny_model("llama").fingerprint


@pytest.mark.parametrize("kind", ["4bit", "fp8"])
def test_packed_bits_are_part_of_the_fingerprint(kind, tmp_path):
    lm = fl.LanguageModel(*made(kind, tmp_path))
    before = lm.fingerprint
    part = lm.model.model.layers[2].self_attn.v_proj
    bits = (part.qweight if kind == "4bit" else part.weight).data.view(torch.uint8)
    bits[3, 5] ^= 1
    assert lm.fingerprint != before
    bits[3, 5] ^= 1
    assert lm.fingerprint == before


# -- edits -----------------------------------------------------------------------------------------


SMALL = {
    "contexts": {"groups": ((1, 3),)},
    "value": {"steps": 3},
}


def handmade(lm, layer=1, seed=0):
    """An edit that nobody computed."""
    draws = torch.Generator().manual_seed(seed)
    left, right = torch.randn(24, 2, generator=draws), torch.randn(2, 56, generator=draws)
    layout = lm.mlp_layout
    change = LowRankUpdate(lm.mlp_weight_name(layer), layout, left, right / 5)
    return fl.Edit("handmade", (FACT,), (change,), BaseModelInfo.of(lm), {}, {}, {})


def memit(lm):
    config = fl.editing.MemitConfig(layers=(0, 1), **SMALL)
    return fl.memit(lm, [FACT], config, background(lm))


def rome(lm):
    return fl.rome(lm, FACT, fl.editing.RomeConfig(layer=1, **SMALL), background(lm))


def test_an_edit_is_carried_and_undone_to_the_bit(lm, tmp_path):
    said = lm.next_token_probs([FACT.prompt])
    edit = rome(lm)
    weights = dict(lm.model.named_parameters())
    before = lm.live_fingerprint
    with edit.applied(lm):
        edited = lm.next_token_probs([FACT.prompt])
        assert not torch.equal(edited, said)
        assert lm.live_fingerprint != before
        assert lm.fingerprint == before
        with edit.applied(lm):
            twice = lm.next_token_probs([FACT.prompt])
            assert not torch.equal(twice, edited)
        assert torch.equal(lm.next_token_probs([FACT.prompt]), edited)
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)
    assert lm.live_fingerprint == before
    if not offloaded(lm.model):
        assert all(weights[n] is p for n, p in lm.model.named_parameters())

    edit.save(tmp_path / "edit")
    again = fl.Edit.load(tmp_path / "edit")
    assert again == edit
    undo = again.apply_(lm)
    assert torch.equal(lm.next_token_probs([FACT.prompt]), edited)
    undo()
    with pytest.raises(EditError, match="carried beside a weight that cannot be written"):
        edit.merge_into(lm, tmp_path / "merged")
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)


@pytest.mark.parametrize("lm", ["fp8", "subclass", "cpu"], indirect=True)
def test_what_is_carried_is_the_edited_matrix(lm):
    """The same as the model with plain weights that are what the packed ones stand for."""
    site = fl.hooks.Site(1, fl.hooks.Stream.MLP_HIDDEN)
    module = lm.module(site)
    matrix = matrix_of(module, device_of(module), lm.dtype)
    assert torch.equal(lm.mlp_weight(1), matrix)
    if hasattr(module, "dequantised"):
        torch.testing.assert_close(matrix, module.dequantised())
    edit = handmade(lm)
    changed = edit.updates[0].patched(matrix)
    with edit.applied(lm):
        torch.testing.assert_close(lm.mlp_weight(1), changed, rtol=1e-4, atol=1e-5)
        with fl.hooks.record(lm, [site, fl.hooks.Site(1, fl.hooks.Stream.MLP)]) as states:
            lm.next_token_probs([FACT.prompt])
        key, output = states.values()
        error = (output - key @ changed.T).norm() / output.norm()
        assert error < (0.1 if isinstance(module, FP8Linear) else 1e-5)
        # What takes the place of an output takes that of the edited one.
        mlp = fl.hooks.Site(1, fl.hooks.Stream.MLP)
        with fl.hooks.intervene(lm, {mlp: torch.zeros_like}):
            off = lm.next_token_probs([FACT.prompt])
    with fl.hooks.intervene(lm, {mlp: torch.zeros_like}):
        assert torch.equal(lm.next_token_probs([FACT.prompt]), off)
        with edit.applied(lm):  # put on above a hook that is there
            assert torch.equal(lm.next_token_probs([FACT.prompt]), off)


@pytest.mark.parametrize("kind", ["4bit", "disk"])
def test_several_edits_come_off_in_any_order(kind, tmp_path):
    lm = fl.LanguageModel(*made(kind, tmp_path))
    edits = [
        handmade(lm),
        memit(lm),
        handmade(lm, seed=1),
    ]
    said = lm.next_token_probs([FACT.prompt])
    undo = [edit.apply_(lm) for edit in edits]
    all_on = lm.next_token_probs([FACT.prompt])
    undo[0]()
    without = lm.next_token_probs([FACT.prompt])
    undo[2]()
    with edits[1].applied(lm):
        pass
    with lm.patches.lifted():
        assert torch.equal(lm.next_token_probs([FACT.prompt]), said)
    undo[1]()
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)
    with edits[1].applied(lm), edits[2].applied(lm):
        assert torch.equal(lm.next_token_probs([FACT.prompt]), without)
    assert not torch.equal(all_on, without)
    assert not lm.patches.carried()


@pytest.mark.parametrize("lm", ["4bit", "disk"], indirect=True)
def test_rows_of_a_batch_carry_edits_of_their_own(lm):
    edits = [handmade(lm), handmade(lm, 0, 1)]
    alone = []
    for edit in edits:
        with edit.applied(lm):
            alone.append(lm.next_token_probs([FACT.prompt])[0])
    carried = row_changes(lm, [edit.updates for edit in edits])
    with carrying(lm, carried, [0, 1]):
        together = lm.next_token_probs([FACT.prompt, FACT.prompt])
    rough = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(together, torch.stack(alone), **rough)


@pytest.mark.parametrize("lm", ["fp8", "disk"], indirect=True)
def test_neurons_are_attributed_and_edited(lm):
    found = fl.attribute_neurons(lm, FACT, config=fl.neurons.NeuronConfig(steps=2, max_steps=2))
    assert torch.isfinite(found.attributions).all()
    assert found.attributions.abs().sum() > 0


@pytest.mark.parametrize("kind", ["int8", "disk"])
def test_what_is_carried_is_what_would_be_written(kind, tmp_path):
    """MEMIT on a packed model is MEMIT on the plain one with the matrices it stands for."""
    model, tokenizer = made(kind, tmp_path)
    lm = fl.LanguageModel(model, tokenizer)
    toy = fl.models.tiny_model("llama")
    with torch.no_grad():
        for name, module in toy.model.named_modules():
            if type(module) is nn.Linear and "layers" in name:
                packed = model.get_submodule(name)
                module.weight.copy_(matrix_of(packed, device_of(packed), lm.dtype))
    plain, edit = memit(toy), memit(lm)
    for one, other in zip(plain.updates, edit.updates, strict=True):
        torch.testing.assert_close(
            one.matrix(torch.float64, lm.device), other.matrix(torch.float64, lm.device),
            rtol=1e-2, atol=1e-4,
        )  # fmt: skip
    with edit.applied(lm), edit.applied(toy, force=True):
        torch.testing.assert_close(
            lm.next_token_probs([FACT.prompt]), toy.next_token_probs([FACT.prompt]),
            rtol=1e-3, atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["int8", "subclass", "disk"])
def test_an_edit_of_the_plain_checkpoint_is_put_on_the_packed_one(kind, tmp_path):
    edit = handmade(fl.models.tiny_model("llama"))
    model, tokenizer = made(kind, tmp_path)
    lm = fl.LanguageModel(model, tokenizer)
    said = lm.next_token_probs([FACT.prompt])
    if kind in KINDS:
        with pytest.raises(WrongModelError, match="force"), edit.applied(lm):
            pass
    with edit.applied(lm, force=True):
        edited = lm.next_token_probs([FACT.prompt])
    assert not torch.equal(edited, said)

    edit.to_peft(tmp_path / "adapter")
    back = fl.Edit.from_peft(tmp_path / "adapter", lm)
    with back.applied(lm):
        torch.testing.assert_close(lm.next_token_probs([FACT.prompt]), edited)
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)


def test_an_adapter_of_a_packed_edit_in_peft(tmp_path):
    """peft puts adapters on subclasses of nn.Linear alone, unless it knows a library's class."""
    if Version(torch.__version__) < Version("2.8"):
        pytest.skip(f"torch {torch.__version__} cannot multiply the float8 that peft makes")
    model, tokenizer = made("fp8", tmp_path)
    lm = fl.LanguageModel(model, tokenizer)
    edit = rome(lm)
    with edit.applied(lm):
        edited = lm.next_token_probs([FACT.prompt])
    edit.to_peft(tmp_path / "adapter")
    ids = tokenizer(FACT.prompt, return_tensors="pt").input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other library's own
        loaded = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    with torch.no_grad():
        probs = loaded(input_ids=ids).logits[0, -1].softmax(-1)
    torch.testing.assert_close(probs, edited[0], rtol=1e-4, atol=1e-6)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


@pytest.mark.parametrize("kind", ["disk"])
@pytest.mark.parametrize("moment", ["place", "with_", "check"])
def test_an_interrupt_leaves_nothing(kind, moment, tmp_path, monkeypatch):
    lm = fl.LanguageModel(*made(kind, tmp_path))
    edit, other = handmade(lm), handmade(lm, 0)
    said, hooks = lm.next_token_probs([FACT.prompt]), _hooks(lm.model)
    method, calls = getattr(Ride, moment), []

    def interrupted(ride, *args):
        calls.append(ride)
        result = method(ride, *args)
        if len(calls) == 2:
            raise Interrupted
        return result

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Ride, moment, interrupted)
        with edit.applied(lm), edit.applied(lm), other.applied(lm):
            pass
    assert torch.equal(lm.next_token_probs([FACT.prompt]), said)
    assert _hooks(lm.model) == hooks
    assert not lm.patches.active


def test_other_code_that_takes_the_hook_off_is_noticed(tmp_path):
    lm = fl.LanguageModel(*made("int8", tmp_path))
    undo = handmade(lm).apply_(lm)
    module = lm.module(fl.hooks.Site(1, fl.hooks.Stream.MLP_HIDDEN))
    (ride,) = riding(module)
    ride.leave(module)
    with pytest.raises(EditError, match="was taken off by other code"):
        undo()
    ride.place(lm.model)
    undo()
    assert not module._forward_hooks


# -- what is refused, and how ----------------------------------------------------------------------


@pytest.mark.parametrize("lm", ["4bit", "cpu"], indirect=True)
def test_gradient_descent_has_nothing_to_write_into(lm):
    rung = lm.abilities.rungs["gradient"]
    assert not rung.can
    assert "plain tensor of floats" in rung.why
    assert lm.abilities.rungs["closed_form"].layers == (0, 1, 2)
    assert "carried beside it" in lm.abilities.rungs["closed_form"].why
    for method in ("ft", "ft+l", "attn"):
        config = fl.editing.FineTuneConfig(layer=1, steps=1)
        with pytest.raises(UnsupportedModelError, match="plain") as caught:
            fl.editing.fine_tune(lm, [FACT], method, config)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="is quantised or offloaded"):
        fl.editing.compare(lm, lm)


def test_layers_that_are_plain_are_written_beside_others_that_are_packed(tmp_path):
    model, tokenizer = quantised("int8", layers=(1,))
    lm = fl.LanguageModel(model, tokenizer)
    rungs = lm.abilities.rungs
    assert rungs["closed_form"].layers == (0, 1, 2)
    assert rungs["gradient"].layers == (0, 2)
    assert "in layer 1" in rungs["closed_form"].why
    tuned = fl.editing.fine_tune(lm, [FACT], "ft+l", fl.editing.FineTuneConfig(layer=2, steps=1))
    before = lm.next_token_probs([FACT.prompt])
    edit = memit(lm)  # layer 0 is written, layer 1 carries
    with edit.applied(lm), tuned.applied(lm):
        assert [change.weight_name for change in lm.patches.carried()] == [lm.mlp_weight_name(1)]
        assert not torch.equal(lm.next_token_probs([FACT.prompt]), before)
    assert torch.equal(lm.next_token_probs([FACT.prompt]), before)


class Bent(nn.Linear):
    """Says that it is a matrix product, and is none."""

    def forward(self, x):
        return super().forward(x).relu()


class Mixing(nn.Linear):
    """A product, but of several tokens."""

    def forward(self, x):
        return super().forward(x).cumsum(-2)


class Stepped(Int8Linear):
    """Rounds its inputs in a way that gradients do not pass."""

    def forward(self, x):
        return super().forward((x * 64).round() / 64)


def test_a_module_that_is_no_product_is_never_taken_for_one(tmp_path):
    cpu, dtype = torch.device("cpu"), torch.float32
    with torch.random.fork_rng([]):
        for kind in (Bent, Mixing):
            assert not is_affine(kind(56, 24), cpu, dtype)
        plain = nn.Linear(56, 24)
    assert is_affine(plain, cpu, dtype)
    assert passes_gradient(plain, cpu, dtype)
    torch.testing.assert_close(matrix_of(plain, cpu, dtype), plain.weight.detach())
    assert not passes_gradient(Stepped(plain), cpu, dtype)

    toy = fl.models.tiny_model("llama")
    mlp = toy.model.model.layers[1].mlp
    with torch.random.fork_rng([]):
        mlp.down_proj = Bent(56, 24, bias=False)
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    assert lm.abilities.rungs["closed_form"].layers == (0, 2)
    assert lm.abilities.rungs["windows"].layers == (0, 1, 2)
    change = handmade(fl.models.tiny_model("llama")).updates
    with pytest.raises(EditError, match="is no product with one"):
        lm.patches.add(change)


def test_a_model_that_gradients_do_not_pass_is_asked_and_traced():
    toy = fl.models.tiny_model("llama")
    for layer in toy.model.model.layers:
        layer.mlp.down_proj = Stepped(layer.mlp.down_proj)
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    assert lm.abilities.rungs["windows"].can
    for rung in ("neurons", "closed_form", "gradient", "rows"):
        assert "gradients do not pass through" in lm.abilities.rungs[rung].why
        with pytest.raises(
            UnsupportedModelError, match="can be done with it: ask and score, trace"
        ):
            lm.abilities.need(rung)


def test_a_change_of_another_shape_or_with_nan_is_not_carried(tmp_path):
    lm = fl.LanguageModel(*made("4bit", tmp_path))
    name = lm.mlp_weight_name(1)
    for left, right, message in (
        (torch.ones(24, 1), torch.ones(1, 55), r"matrix of \(24, 55\).* the model's is \(24, 56\)"),
        (torch.full((24, 1), torch.nan), torch.ones(1, 56), "NaN or infinite"),
    ):
        with pytest.raises(EditError, match=message):
            lm.patches.add([LowRankUpdate(name, "out_in", left, right)])
    assert not lm.patches.active


def test_a_packed_weight_with_nan_among_its_scales(tmp_path):
    model, tokenizer = made("int8", tmp_path)
    model.model.layers[0].mlp.up_proj.scale[0] = torch.inf
    with pytest.raises(ModelLoadError, match=r"'model.layers.0.mlp.up_proj.scale' has NaN"):
        fl.LanguageModel(model, tokenizer)


# -- offloading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "family"), [("disk", "gpt2"), ("cpu", "opt")]
)  # Conv1D and a tied head; a flat MLP
def test_offloaded_models_of_other_habits(place, family, tmp_path):
    toy = fl.models.tiny_model(family)
    edit = handmade(toy)
    with edit.applied(toy):
        expected = toy.next_token_probs([FACT.prompt])
    lm = fl.LanguageModel(*offloaded_model(place, tmp_path, family))
    assert lm.fingerprint == toy.fingerprint
    assert lm.mlp_layout == toy.mlp_layout
    with edit.applied(lm):
        torch.testing.assert_close(lm.next_token_probs([FACT.prompt]), expected)


def test_changed_bits_of_an_offloaded_weight_are_noticed(tmp_path):
    lm = fl.LanguageModel(*made("disk", tmp_path))
    before = lm.fingerprint
    (file,) = (tmp_path / "disk").glob("model.layers.1.mlp.up_proj.weight.dat")
    data = bytearray(file.read_bytes())
    data[3] ^= 64
    file.write_bytes(data)
    assert lm.fingerprint != before


def test_weights_without_numbers_and_without_hooks():
    toy = fl.models.tiny_model("llama")
    with pytest.raises(ModelLoadError, match=r"no numbers .* no hook of accelerate"):
        fl.LanguageModel(nn.Module.to(toy.model, "meta"), toy.tokenizer)


class DTensor(torch.Tensor):
    """Stands for torch.distributed's, which needs several processes."""


def test_weights_in_pieces_are_refused():
    toy = fl.models.tiny_model("llama")
    part = toy.model.model.layers[1].mlp.down_proj
    part.weight = nn.Parameter(part.weight.detach().as_subclass(DTensor))
    with pytest.raises(UnsupportedModelError, match=r"is a DTensor: it is spread as pieces"):
        fl.LanguageModel(toy.model, toy.tokenizer)


def test_a_weight_that_shows_nothing_of_itself():
    class Closed(TwoParts):
        __tensor_flatten__ = property()
        dequantize = None

    toy = fl.models.tiny_model("llama")
    part = wrapped(toy.model.model.layers[1].mlp.down_proj)
    kept = part.weight.data
    part.weight = nn.Parameter(Closed(kept.steps, kept.scales), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match="is a Closed, which does not show"):
        stored(toy.model)
