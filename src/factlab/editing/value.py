"""v*: the MLP output that makes the model say the new object (ROME paper, equation 4).

    L(z) = mean_j −log P[o* | x_j + p; m := z]  +  KL( P[· | “s is a”; m := z] ‖ P[· | “s is a”] )

The second term holds the *essence* of the subject: what the model takes it to be. As in the paper's
code z is reached by adding one vector δ to the MLP output at the subject's last token in every row,
with a decay on its norm, a bound on its length, and Adam.

δ changes nothing left of the subject's last token and nothing below the edited layer. All rows are
aligned at that token: what is left of it is run once, its keys and values are kept, and every step
starts at the edited layer with the few tokens from there on. Logits are read at target tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from factlab.editing.lookup import prompt_rows, target_rows
from factlab.errors import EditError
from factlab.facts import Fact
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.cache import Prefix, RecordingCache
from factlab.models.decoder import Decoder
from factlab.models.replay import Frame, Hidden
from factlab.progress import ProgressCallback, silent
from factlab.tokens import pad


class ValueConfig(BaseModel):
    """How to optimise δ.

    Defaults are the values of the paper's code for GPT-2 XL and GPT-J, but for `kl_position`.

    Attributes:
        steps: most evaluations of the loss.
        learning_rate: of Adam.
        kl_factor: weight of the essence term (0.0625 in the code; the paper's text has 100).
        kl_position: where the essence prompt is read: at its last token, as the paper says, or at
            the subject's last token, as its code does (there " is a" has no influence).
        weight_decay: factor of ‖δ‖ / ‖v₀‖².
        clamp_factor: ‖δ‖ is kept below this many times ‖v₀‖.
        stop_loss: stop when the total loss is below this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: PositiveInt = 20
    learning_rate: PositiveFloat = 0.5
    kl_factor: NonNegativeFloat = 0.0625
    kl_position: Literal["essence_end", "subject_end"] = "essence_end"
    weight_decay: NonNegativeFloat = 0.5
    clamp_factor: PositiveFloat = 4.0
    stop_loss: NonNegativeFloat = 0.05


@dataclass(frozen=True, slots=True)
class OptimisedValue:
    """The result of the optimisation.

    Attributes:
        delta: δ, (d_model,), float32 or wider, on the CPU.
        history: for each step the total loss, its terms, and the norm of δ.
        target_prob_before: length-normalised probability of the target, averaged over contexts,
            without δ.
        target_prob: the same with δ.
        initial_norm: ‖v₀‖, of the MLP output in the bare prompt.
    """

    delta: Float[Tensor, " d_model"]
    history: list[dict[str, float]]
    target_prob_before: float
    target_prob: float
    initial_norm: float

    def to_json(self) -> dict[str, Any]:
        """All but δ itself."""
        return {
            "loss": [step["loss"] for step in self.history],
            "nll": [step["nll"] for step in self.history],
            "kl": [step["kl"] for step in self.history],
            "delta_norm": [step["delta_norm"] for step in self.history],
            "initial_norm": self.initial_norm,
            "target_prob_before": self.target_prob_before,
            "target_prob": self.target_prob,
        }


@torch.inference_mode(False)
def optimise_value(
    lm: Decoder,
    fact: Fact,
    target: str,
    contexts: Sequence[str],
    layer: int,
    config: ValueConfig,
    progress: ProgressCallback = silent,
) -> OptimisedValue:
    """Find δ for one fact.

    Args:
        lm: the model, left as it is.
        fact: whose subject is looked up.
        target: the object to say instead.
        contexts: texts before the prompt; the first is empty.
        layer: whose MLP output δ is added to.
        config: see `ValueConfig`.
        progress: called with steps done and in all.

    Raises:
        EditError: the loss became NaN.
    """
    with lm.frozen():
        problem = _prepare(lm, fact, target, contexts, layer, config)
        width = torch.promote_types(lm.dtype, torch.float32)
        delta = torch.zeros(lm.d_model, dtype=width, device=problem.entry.device)
        delta.requires_grad_(True)
        optimiser = torch.optim.Adam([delta], lr=config.learning_rate)
        longest = config.clamp_factor * problem.initial_norm
        history: list[dict[str, float]] = []
        probs: list[float] = []
        for step in range(config.steps):
            progress("optimising the value", step, config.steps)
            with torch.enable_grad():
                nll, kl = _loss_terms(lm, problem, delta)
                decay = config.weight_decay * delta.norm() / problem.initial_norm**2
                loss = nll.mean() + config.kl_factor * kl + decay.to(nll.device)
            history.append(
                {
                    "loss": float(loss.detach()),
                    "nll": float(nll.detach().mean()),
                    "kl": float(kl.detach()),
                    "delta_norm": float(delta.detach().norm()),
                }
            )
            probs.append(float(nll.detach().neg().exp().mean()))
            if not torch.isfinite(loss):
                raise EditError(
                    f"The loss became {float(loss)} at step {step} of {fact.subject!r}. "
                    "Lower the learning rate, or use float32."
                )
            if loss < config.stop_loss or step == config.steps - 1:
                break
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimiser.step()
            with torch.no_grad():
                delta *= (longest / delta.norm().clamp(min=1e-12)).clamp(max=1.0)
        progress("optimising the value", config.steps, config.steps)
    return OptimisedValue(delta.detach().cpu(), history, probs[0], probs[-1], problem.initial_norm)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Everything that stays the same from step to step.

    Rows are the contexts and last the essence prompt. Column 0 is the lookup token of every row.
    """

    layer: int
    frame: Frame
    entry: Hidden
    target_rows: Int[Tensor, " read"]
    target_columns: Int[Tensor, " read"]
    target_ids: Int[Tensor, " read"]
    n_contexts: int
    essence_column: int
    essence_logprobs: Float[Tensor, " vocab"]
    initial_norm: float


@torch.no_grad()
def _prepare(
    lm: Decoder,
    fact: Fact,
    target: str,
    contexts: Sequence[str],
    layer: int,
    config: ValueConfig,
) -> _Problem:
    rows = target_rows(lm, fact, contexts, target)
    (essence,) = prompt_rows(lm, Fact("{} is a", fact.subject), [""])
    every = [*rows, essence]
    inputs = [*(row.ids[:-1] for row in rows), essence.ids]  # the last target id is never read
    positions = [row.position for row in every]
    cache = RecordingCache(lm.n_layers, max(map(len, inputs)))
    output_site = Site(layer, Stream.MLP)
    with record(lm, [output_site]) as states:
        whole = lm.frame(pad(inputs, lm.device), cache)
        entry = lm.run(whole, stop=layer)
        final = lm.run(whole, entry, first=layer)

    # From here on column 0 is the lookup token: cut every row there, and line the cuts up.
    aligned = pad(inputs, lm.device, align=positions)
    lookup = max(positions)
    columns = torch.tensor(positions)[:, None] + torch.arange(aligned.width - lookup)
    columns = columns.clamp(max=entry.shape[1] - 1).to(entry.device)
    entry = entry.gather(1, columns[:, :, None].expand(-1, -1, entry.shape[2]))
    reads = [
        (number, row.n_prompt - 1 + i - row.position, row.ids[row.n_prompt + i])
        for number, row in enumerate(rows)
        for i in range(len(row.ids) - row.n_prompt)
    ]
    at_end = config.kl_position == "essence_end"
    essence_column = len(essence.ids) - 1 - essence.position if at_end else 0
    essence_logits = lm.readout(final[-1:, essence.position + essence_column])[0]
    wanted = torch.tensor(reads, device=final.device)
    return _Problem(
        layer=layer,
        frame=lm.frame(aligned, Prefix.of(cache, positions), lookup),
        entry=entry,
        target_rows=wanted[:, 0],
        target_columns=wanted[:, 1],
        target_ids=wanted[:, 2],
        n_contexts=len(rows),
        essence_column=essence_column,
        essence_logprobs=_log_softmax(essence_logits),
        initial_norm=float(states[output_site][0, positions[0]].norm()),
    )


def _loss_terms(
    lm: Decoder, problem: _Problem, delta: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, " context"], Float[Tensor, ""]]:
    """NLL of the target in each context, averaged over its tokens, and the essence's KL."""

    def add_delta(state: Tensor) -> Tensor:
        moved = state.clone()
        moved[:, 0] += delta.to(state)
        return moved

    with intervene(lm, {Site(problem.layer, Stream.MLP): add_delta}):
        hidden = lm.run(problem.frame, problem.entry, first=problem.layer)
    read = torch.cat(
        [
            hidden[problem.target_rows, problem.target_columns],
            hidden[problem.n_contexts, problem.essence_column][None],
        ]
    )
    logprobs = _log_softmax(lm.readout(read))
    target_ids, target_rows = (
        x.to(logprobs.device) for x in (problem.target_ids, problem.target_rows)
    )
    nll = -logprobs[:-1].gather(1, target_ids[:, None])[:, 0]
    per_context = nll.new_zeros(problem.n_contexts)
    totals = per_context.index_add(0, target_rows, nll)
    counts = per_context.index_add(0, target_rows, torch.ones_like(nll))
    kl = (logprobs[-1].exp() * (logprobs[-1] - problem.essence_logprobs)).sum()
    return totals / counts, kl


def _log_softmax(logits: Float[Tensor, "*n vocab"]) -> Float[Tensor, "*n vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
