"""A Ctrl-C at any line of the code that changes a model for a while leaves nothing behind."""

import sys
from collections.abc import Callable

import pytest
import torch

import factlab as fl
from factlab.models import products
from factlab.models.changes.carried import substituted
from factlab.models.tiny import tiny_model

PROMPT = "The Louvre is in"
SITES = [fl.hooks.Site(layer, stream) for layer in (0, 1) for stream in ("mlp_hidden", "block")]
SITES = [fl.hooks.Site(layer, fl.hooks.Stream(stream)) for layer, stream in SITES]


def apply_and_undo(lm):
    with EDIT.applied(lm):
        pass


def wrap(lm):
    fl.LanguageModel(lm.model, lm.tokenizer)


def freeze(lm):
    with lm.frozen():
        pass


def record(lm):
    with fl.hooks.record(lm, SITES):
        pass


def carry(lm):
    names = [lm.mlp_weight_name(layer) for layer in (0, 1)]
    weights = {name: 2 * lm.model.get_parameter(name).detach() for name in names}
    stacked = {name: torch.stack([weight, weight]) for name, weight in weights.items()}
    with substituted(lm, stacked, owners=[0, 1]):
        pass


EDIT = fl.editing.fine_tune(
    tiny_model("llama"), [fl.Fact("{} is in", "Rome", "Paris")], "ft",
    fl.editing.FineTuneConfig(layer=1, steps=1),
)  # fmt: skip
# What is interrupted, and the functions at whose lines.
CASES: list[tuple[Callable, set[str]]] = [
    (apply_and_undo, {"_set", "_remove", "add", "_put", "applied", "_write", "_recover", "undone"}),
    (wrap, {"probing", "_put_back", "examine", "attached", "_detach", "undone"}),
    (freeze, {"_asleep", "_awake", "fast_products", "replaced", "_put_back", "undone"}),
    (record, {"record", "intervene", "attached", "attach", "_detach", "detach", "undone"}),
    (carry, {"carrying", "attached", "replaced", "_put_back", "attach", "detach", "undone"}),
]


def state_of(lm) -> dict[str, object]:
    state: dict[str, object] = {}
    for name, parameter in lm.model.named_parameters():
        state[f"weight {name}"] = parameter.detach().clone()
        state[f"requires_grad {name}"] = parameter.requires_grad
    for name, module in lm.model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        state[f"module {name}"] = module.training, hooks, "forward" in vars(module)
    return state


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]  # fmt: skip


class Interrupter:
    """Raises KeyboardInterrupt at the n-th new line that is reached in some functions.

    Lines of loops count once for the first pass and once for the second, so that loops over all
    weights of a model do not take forever.
    """

    def __init__(self, functions: set[str], number: int) -> None:
        self._functions, self._left = functions, number
        self._passes: dict[tuple[str, int], int] = {}
        self.has_raised = False

    def __enter__(self) -> "Interrupter":
        sys.settrace(self._call)
        return self

    def __exit__(self, *_reason: object) -> None:
        sys.settrace(None)

    def _call(self, frame, _event, _arg):
        ours = "/factlab/" in frame.f_code.co_filename
        return self._line if ours and frame.f_code.co_name in self._functions else None

    def _line(self, frame, event, _arg):
        if event == "line":
            at = frame.f_code.co_filename, frame.f_lineno
            self._passes[at] = self._passes.get(at, 0) + 1
            if self._passes[at] <= 2:
                self._left -= 1
                if self._left == 0:
                    sys.settrace(None)
                    self.has_raised = True
                    raise KeyboardInterrupt
        return self._line


@pytest.mark.parametrize(
    ("use", "functions"), CASES, ids=lambda each: getattr(each, "__name__", "")
)
def test_an_interrupt_leaves_nothing_behind(use, functions, monkeypatch):
    monkeypatch.setattr(products, "_is_worthwhile", lambda: True)
    lm = tiny_model("llama")
    lm.model.train()
    use(lm)
    before = state_of(lm)
    for number in range(1, 500):
        interrupter = Interrupter(functions, number)
        try:
            with interrupter:
                use(lm)
        except KeyboardInterrupt:
            assert interrupter.has_raised
            # Of torch's own switch: "with no_grad()" has a line at its end too, at which a real
            # interrupt cannot come.
            torch.set_grad_enabled(True)
        assert not differences(before, state_of(lm)), f"at line {number}"
        if not interrupter.has_raised:
            break
    assert number > 8, "the test would be empty"
    assert not interrupter.has_raised
