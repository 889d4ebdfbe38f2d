"""Values that are optimised in the chat template too, against full forward passes in float64."""

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form.value import optimise_values
from factlab.editing.configs import ValueConfig
from factlab.editing.requests import ValueRequest
from factlab.hooks import Site, Stream
from factlab.tokens import encode
from model_families import HABITS, SINGLE_INSIDE

FACT = fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
# Written by hand: the whole text, and what of it comes before the subject and before the target.
TEXTS = [
    ("Is the Space Needle in the city of Rome and Paris", "Is ", " Rome"),
    ("[user]\nIs the Space Needle in the city of\n[assistant]\nRome and Paris",
     "[user]\nIs ", "Rome"),
    ("[user]\nTell me a fact.\n[assistant]\nIs the Space Needle in the city of Rome and Paris",
     "[user]\nTell me a fact.\n[assistant]\nIs ", " Rome"),
]  # fmt: skip


@pytest.mark.parametrize("family", HABITS)
@pytest.mark.parametrize("stream", [Stream.MLP, Stream.BLOCK])
def test_the_value_is_optimised_as_by_full_forward_passes(make_model, family, stream):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    lm.tokenizer.chat_template = TEMPLATE
    forms = lm.chat_forms()
    config = ValueConfig(
        steps=4, step_rule="adam", learning_rate=0.1, clamp_factor=50, kl_factor=0, stop_nll=0,
        stop_loss=0,
    )  # fmt: skip
    contexts = ["", forms.asked, forms.begun]
    request = ValueRequest(FACT, FACT.target_new)
    (fast,) = optimise_values(lm, [request], contexts, Site(0, stream), config)

    path = f"{lm.layers.anatomy.layers}.0"
    if stream is Stream.MLP:
        path += f".{lm.layers.anatomy.parts[0].mlp.output}"
    module = lm.model.get_submodule(path)
    delta = torch.zeros(lm.d_model, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.1)
    losses = []
    for step in range(4):
        nlls = []
        for text, before, first in TEXTS:
            tokens = encode(lm.tokenizer, text)
            stop = len(before) + len(FACT.subject)
            place = max(i for i, (a, b) in enumerate(tokens.char_spans) if a < stop and b > a)
            begins = text.index(first, stop)
            target = [i for i, (a, b) in enumerate(tokens.char_spans) if b > a and a >= begins]

            def add(_module, _args, out, place=place):
                state = out[0] if isinstance(out, tuple) else out
                moved = state.clone()
                (moved if moved.ndim == 2 else moved[0])[place] += delta
                return (moved, *out[1:]) if isinstance(out, tuple) else moved

            handle = module.register_forward_hook(add)
            logprobs = lm.model(torch.tensor([tokens.ids])).logits[0].log_softmax(-1)
            handle.remove()
            nlls.append(-sum(logprobs[i - 1, tokens.ids[i]] for i in target) / len(target))
        loss = sum(nlls) / 3
        losses.append(loss.item())
        if step < 3:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    lm.model.zero_grad(set_to_none=True)
    tolerance = 1e-3 if family in SINGLE_INSIDE else 1e-6
    assert abs(losses[-1] - losses[0]) > 1e-3, "the test would be empty"
    assert [step["loss"] for step in fast.history] == pytest.approx(losses, abs=tolerance)
    assert torch.allclose(fast.delta, delta.detach(), atol=10 * tolerance)
