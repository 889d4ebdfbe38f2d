"""Integrated gradients of neurons: every layer and step of many prompts in few passes.

A *row* is a prompt with the neurons of one layer, at its last token, scaled to a share of what they
are. That changes nothing below the layer and nothing left of the token, so

* each prompt is run once; keys and values of all tokens but the last are kept, and so is what the
  last token (with target tokens behind it) brings to every layer;
* rows begin at their own layer. One walk goes up the layers, and at each layer its rows join those
  from below: the weights of a layer are read once for the rows of all layers up to it;
* logits are read where target tokens are, some rows at a time, and one backward pass gives the
  gradient of every row.

Rows come layer by layer, share by share, prompt by prompt.

A layer's attributions should add up to P(w) − P(0), which is known. Where they do not, as in a
first layer that turns the residual stream round on its way, it is done again with more shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.continuations import Continuation
from factlab.hooks import Site, Stream, intervene
from factlab.models.engines.engine import Hidden
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, target_logprobs, wide_logits
from factlab.neurons.quadrature import GROWTH, Nodes, Quadrature
from factlab.precision import wide
from factlab.progress import ProgressCallback
from factlab.tokens import groups, pad

# Tokens on the left, of which only keys and values are held, that cost as much as one that runs.
_LEFT = 8.0


@dataclass(frozen=True, slots=True)
class Integrated:
    """What was found for one question.

    Attributes:
        target_ids: whose probability it is.
        prob: of the target.
        attributions: of every neuron, float32 or wider, on the CPU.
        silenced_probs: of the target with all neurons of one layer at zero.
        steps: how many gradients each layer took.
    """

    target_ids: tuple[int, ...]
    prob: float
    attributions: Float[Tensor, "layer d_mlp"]
    silenced_probs: Float[Tensor, " layer"]
    steps: Int[Tensor, " layer"]


@torch.inference_mode(False)
def integrated_gradients(
    lm: LanguageModel,
    questions: Sequence[Continuation],
    quadrature: Quadrature,
    progress: ProgressCallback,
) -> list[Integrated]:
    """Integrate: w ∫₀¹ ∂P/∂w at s·w ds, for the neurons w of every layer.

    Args:
        lm: the model, left as it is.
        questions: prompts with the target whose probability is attributed, or without one for the
            token that the model finds most probable. They may be of any lengths; the result of one
            does not depend on the others.
        quadrature: how to integrate.
        progress: called with questions done and in all.

    Raises:
        MemoryLimitError: memory ran out.
    """
    limit = lm.budget.gradient_tokens(left=_LEFT)
    costs = [len(q.reads) + q.n_prompt / _LEFT for q in questions]
    found: dict[int, Integrated] = {}
    with lm.frozen():
        for numbers in groups(costs, max(1, limit // (quadrature.steps + 1))):
            progress("attributing", len(found), len(questions))
            shares_at_once = limit / (len(numbers) * max(costs[i] for i in numbers))
            batch = _Batch(lm, [questions[i] for i in numbers], max(1, int(shares_at_once)))
            found |= zip(numbers, batch.integrate(quadrature), strict=True)
        progress("attributing", len(found), len(questions))
    return [found[i] for i in range(len(questions))]


class _Batch:
    """Some prompts, run once; make it inside `lm.frozen()`.

    Args:
        lm: the model.
        questions: the prompts.
        shares_at_once: how many shares of all prompts a walk may carry.
    """

    @torch.no_grad()
    def __init__(
        self, lm: LanguageModel, questions: Sequence[Continuation], shares_at_once: int
    ) -> None:
        self._lm, self._n, self._at_once = lm, len(questions), shares_at_once
        rows = [q.inputs for q in questions]
        last = [q.n_prompt - 1 for q in questions]
        batch = pad(rows, lm.device)
        width = max(len(q.reads) for q in questions)
        columns = (
            torch.tensor(last, device="cpu")[:, None] + torch.arange(width, device="cpu")
        ).clamp(max=batch.width - 1)
        cache = lm.recording(batch.width)
        frame = lm.frame(batch, cache)
        hidden = frame.entry
        self._entries: list[Hidden] = []
        for layer in range(lm.n_layers):
            self._entries.append(_at(hidden, columns))
            hidden = lm.step(frame, hidden, layer)
        left = _at(hidden, columns)
        said = lm.readout(left[:, 0]).argmax(1).tolist()
        self._questions = [
            q if q.target_ids else replace(q, target_ids=(token_id,))
            for q, token_id in zip(questions, said, strict=True)
        ]
        self._prefix = cache.prefix(last)
        self._tokens = pad(rows, lm.device, align=last)
        self._start = max(last)
        self._reads = Reads.of(self._questions, origins=last)
        self._probs = self._answer(left)[0].exp()

    def integrate(self, quadrature: Quadrature) -> list[Integrated]:
        """What was found for each prompt."""
        n_layers, steps = self._lm.n_layers, quadrature.steps
        nodes = quadrature.nodes(steps)
        # One more row with the neurons at zero.
        walks = self._walks(range(n_layers), Nodes([0.0, *nodes.shares], [0.0, *nodes.weights]))
        attributions, silenced = walks
        counts = torch.full((n_layers, self._n), steps, device="cpu")
        if quadrature.tolerance is not None:
            change = self._probs - silenced
            bound = quadrature.tolerance * self._probs
            while steps * GROWTH <= quadrature.max_steps:
                off = (attributions.sum(2) - change).abs() > bound
                steps *= GROWTH
                for layer in off.any(1).nonzero()[:, 0].tolist():
                    again, _ = self._walks(range(layer, layer + 1), quadrature.nodes(steps))
                    # The others stay what they would be without this prompt beside them.
                    attributions[layer, off[layer]] = again[0, off[layer]]
                    counts[layer, off[layer]] = steps
        return [
            Integrated(
                question.target_ids,
                float(self._probs[i]),
                attributions[:, i].clone(),
                silenced[:, i],
                counts[:, i],
            )
            for i, question in enumerate(self._questions)
        ]

    def _walks(
        self, layers: range, nodes: Nodes
    ) -> tuple[Float[Tensor, "layer prompt d_mlp"], Float[Tensor, "layer prompt"]]:
        """Attributions of some layers, and probabilities at the first share."""
        n_shares, found = len(nodes.shares), list[tuple[Tensor, Tensor]]()
        layers_at_once = max(1, self._at_once // n_shares)
        for first in range(layers.start, layers.stop, layers_at_once):
            some = range(first, min(first + layers_at_once, layers.stop))
            # Several layers with all nodes, or one layer with so many nodes that they are cut.
            pieces = [
                self._walk(some, *(part[i : i + self._at_once] for part in nodes))
                for i in range(0, n_shares, self._at_once if len(some) == 1 else n_shares)
            ]
            total = torch.stack([attributions for attributions, _ in pieces]).sum(0)
            found.append((total, pieces[0][1]))
        attributions, probs = zip(*found, strict=True)
        return torch.cat(attributions), torch.cat(probs)

    def _walk(
        self, layers: range, shares: Sequence[float], weights: Sequence[float]
    ) -> tuple[Float[Tensor, "layer prompt d_mlp"], Float[Tensor, "layer prompt"]]:
        """The same in one batch: the rows of a layer join it where their neurons are scaled."""
        lm, n_new = self._lm, len(shares) * self._n
        offsets: list[Tensor] = []
        neurons: list[Tensor] = []

        def scale(state: Tensor) -> Tensor:
            # The gradient for an offset of zero is the scaled neurons', whatever comes next.
            new = state[-n_new:, 0].detach()
            offset = torch.zeros_like(new, requires_grad=True)
            factors = (
                torch.tensor(shares, dtype=torch.float64, device="cpu")
                .to(new)
                .repeat_interleave(self._n)
            )
            neurons.append(new[: self._n])
            offsets.append(offset)
            scaled = state.clone()
            scaled[-n_new:, 0] = factors[:, None] * new + offset
            return scaled

        hidden = self._entries[layers.start][:0]
        frame = lm.frame(self._tokens, self._prefix, self._start)
        with torch.enable_grad():
            for layer in range(layers.start, lm.n_layers):
                interventions = {}
                if layer in layers:
                    joining = self._entries[layer].repeat(len(shares), 1, 1)
                    hidden = torch.cat([hidden.to(joining.device), joining])
                    interventions = {Site(layer, Stream.MLP_HIDDEN): scale}
                    frame = lm.frame(self._tokens, self._prefix, self._start, len(hidden))
                with intervene(lm, interventions):
                    hidden = lm.step(frame, hidden, layer)
        logprobs, slopes = self._answer(hidden.detach())
        found = torch.autograd.grad(hidden, offsets, slopes)
        probs = logprobs.exp().view(len(layers), len(shares), self._n)
        # ∂P = P ∂ log P: the latter keeps its gradient where P is too small for the model's dtype.
        factors = (
            probs * torch.tensor(weights, dtype=torch.float64, device="cpu").to(probs)[:, None]
        )
        attributions = [
            torch.einsum("sp,spi->pi", factor, gradient.to("cpu", factor.dtype).unflatten(
                0, factor.shape)) * w.to("cpu", factor.dtype)
            for factor, gradient, w in zip(factors, found, neurons, strict=True)
        ]  # fmt: skip
        return torch.stack(attributions), probs[:, 0]

    def _answer(self, states: Hidden) -> tuple[Float[Tensor, " row"], Hidden]:
        """For rows that leave the last layer: log P(target), on the CPU, and its gradient."""
        repeats = len(states) // self._n
        turns = self._n * torch.arange(repeats, device="cpu")[:, None]
        rows, columns = (turns + self._reads.rows).flatten(), self._reads.columns.repeat(repeats)
        ids = self._reads.ids.repeat(repeats)
        logprobs = torch.zeros(len(states), dtype=wide(states.dtype), device="cpu")
        slopes = torch.zeros_like(states)
        every, at_once = torch.arange(len(rows), device="cpu"), self._lm.budget.readout_tokens
        for some in every.split(at_once):
            at = rows[some].to(states.device), columns[some].to(states.device)
            read = states[at].requires_grad_(True)
            with torch.enable_grad():
                logits = wide_logits(self._lm, read)
                found, _ = target_logprobs(logits, ids[some], rows[some], len(states))
                (slopes[at],) = torch.autograd.grad(found.sum(), read)
            logprobs += found.detach().cpu()
        return logprobs, slopes


def _at(hidden: Hidden, columns: Int[Tensor, "batch read"]) -> Float[Tensor, "batch read d_model"]:
    """Each row's states at its own columns, copied."""
    numbers = torch.arange(len(columns), device=hidden.device)
    return hidden[numbers[:, None], columns.to(hidden.device)]
