"""Knowledge neurons: which MLP neurons make the model give an answer (Dai et al. 2022).

The neurons w of layer l are the inputs of its MLP output projection (for a gated MLP the products
that enter it), at the prompt's last token. Each gets its share of the answer's probability by
integrated gradients from zero:

    Attr(wᵢ) = wᵢ ∫₀¹ ∂P(answer | s·w) / ∂wᵢ ds  ≈  wᵢ Σₖ ωₖ ∂P(answer | sₖ·w) / ∂wᵢ

so that the attributions of a layer add up to P(w) − P(0), but for the error of the sum. Knowledge
neurons are those above a share of the largest attribution, over all layers; with several prompts
that ask for the same fact, those that many of the prompts have in common.

| paper | here |
|---|---|
| w⁽ˡ⁾ᵢ | `Neuron`, `Stream.MLP_HIDDEN` |
| m, k/m | `NeuronConfig.steps`, `.rule` |
| t (0.2 of the maximum), p | `threshold`, `share`: see `neuron_choice` |

How it is made cheap is told in `neuron_batch`.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.arguments import checked
from factlab.continuations import Continuation
from factlab.data_frames import data_frame
from factlab.documents import check_format, described, parse_json
from factlab.equality import EqualByContent
from factlab.errors import InvalidRequestError, StorageError, TokenizationError, counted
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.neurons.batch import integrated_gradients
from factlab.neurons.configs import NeuronConfig
from factlab.neurons.quadrature import Quadrature
from factlab.progress import ProgressCallback, silent
from factlab.results import Drawn, Tabular
from factlab.storage import read_tensors, write_tensors
from factlab.tokens import shown

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

    from factlab.figures import Picture

_FORMAT = "factlab neuron attribution 1"
# Sums over layers are not closer than so many roundings of the model's numbers.
_ROUNDINGS = 4
_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Neuron:
    """One neuron: an input of a layer's MLP output projection.

    Attributes:
        layer: 0-based.
        index: 0-based, below d_mlp.
        attribution: how much of the answer's probability it accounts for.
    """

    layer: int
    index: int
    attribution: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NeuronAttribution(Tabular, Drawn, EqualByContent):
    """How much each neuron accounts for an answer.

    `print(found)` says the main things in a few lines; a notebook adds the picture. Two are equal
    if all of this is.

    Attributes:
        prompt: the text.
        target: the answer, as it was given or as the model gives it.
        prompt_ids: tokens of the prompt.
        target_ids: the tokens whose probability is attributed.
        target_tokens: the same as text.
        prob: their probability.
        silenced_probs: the same with all neurons of one layer at zero.
        steps: how many gradients each layer took.
        attributions: of every neuron, in units of probability; float32 or wider, on the CPU.
        config: as given.
        model_name: the model.
        fingerprint: of its weights, applied edits included.
    """

    prompt: str
    target: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    target_tokens: tuple[str, ...]
    prob: float
    silenced_probs: Float[Tensor, " layer"]
    steps: Int[Tensor, " layer"]
    attributions: Float[Tensor, "layer d_mlp"]
    config: NeuronConfig
    model_name: str
    fingerprint: str

    def __repr__(self) -> str:
        n_layers, d_mlp = self.attributions.shape
        strong = ", ".join(
            f"{n.attribution:+.3f} layer {n.layer} #{n.index}" for n in self.top(_SHOWN)
        )
        return (
            f"NeuronAttribution of {self.target!r} after {self.prompt!r} ({self.model_name})\n"
            f"  P({''.join(self.target_tokens)!r}) = {self.prob:.3f}; "
            f"{counted(n_layers, 'layer')} of {counted(d_mlp, 'neuron')}\n"
            f"  {len(self.neurons()):,} above 0.2 of the largest attribution; strongest: {strong}"
        )

    @property
    def strongest(self) -> float:
        """The largest attribution."""
        return float(self.attributions.max())

    @property
    def gaps(self) -> Float[Tensor, " layer"]:
        """Sum of a layer's attributions less P(w) − P(0): the error of the sum over steps."""
        return self.attributions.sum(1) - (self.prob - self.silenced_probs)

    def top(self, count: int) -> list[Neuron]:
        """The neurons with the largest attributions, largest first.

        Raises:
            InvalidRequestError: the count is below 1.
        """
        if count < 1:
            raise InvalidRequestError(f"top({count}) is no neuron. Ask for 1 or more.")
        values, places = self.attributions.flatten().topk(min(count, self.attributions.numel()))
        return [self._neuron(p, v) for p, v in zip(places.tolist(), values.tolist(), strict=True)]

    def neurons(self, threshold: float = 0.2) -> list[Neuron]:
        """The neurons above a share of the largest attribution, largest first.

        None if no attribution is positive: then no neuron makes the answer more probable.

        Raises:
            InvalidRequestError: the threshold is not from 0 up to, not including, 1.
        """
        check_threshold(threshold)
        limit = max(threshold * self.strongest, 0.0)
        count = int((self.attributions > limit).sum())
        return self.top(count) if count else []

    def _neuron(self, place: int, attribution: float) -> Neuron:
        layer, index = divmod(place, self.attributions.shape[1])
        return Neuron(layer, index, attribution)

    # -- as a document ----------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """All but the attributions of single neurons, ready for JSON."""
        return {
            "prompt": self.prompt,
            "target": self.target,
            "prompt_ids": list(self.prompt_ids),
            "target_ids": list(self.target_ids),
            "target_tokens": list(self.target_tokens),
            "prob": self.prob,
            "silenced_probs": self.silenced_probs.tolist(),
            "steps": self.steps.tolist(),
            "config": self.config.model_dump(mode="json"),
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, with attributions as nested lists, layer by layer."""
        return self.summary() | {"attributions": self.attributions.tolist()}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        metadata = {"format": _FORMAT, "summary": json.dumps(self.summary())}
        tensors = {"attributions": self.attributions, "silenced_probs": self.silenced_probs}
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronAttribution":
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or something else.
        """
        tensors, metadata = read_tensors(Path(path))
        check_format(metadata.get("format"), _FORMAT, f"'{path}'", "a neuron attribution")
        try:
            summary: Any = parse_json(metadata["summary"], f"The summary in '{path}'", finite=False)
            for name in ("prompt_ids", "target_ids", "target_tokens"):
                summary[name] = tuple(summary[name])
            summary["steps"] = torch.tensor(summary["steps"], device="cpu")
            summary["config"] = NeuronConfig.model_validate(summary["config"])
            return cls(**summary | tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{path}' is damaged: {described(error)}.") from error

    def rows(self, count: int | None = 100) -> list[dict[str, Any]]:
        """One dictionary per neuron, the strongest so many; None for all.

        Its keys: layer, neuron, attribution.

        Raises:
            InvalidRequestError: the count is below 1.
        """
        return [
            {"layer": neuron.layer, "neuron": neuron.index, "attribution": neuron.attribution}
            for neuron in self.top(self.attributions.numel() if count is None else count)
        ]

    def to_pandas(self, count: int | None = 100) -> "pandas.DataFrame":
        """`rows` as a data frame.

        Raises:
            MissingPackageError: pandas, which factlab itself does not need, is not installed.
        """
        return data_frame(self.rows(count))

    def plot(
        self,
        path: str | Path | None = None,
        chosen: Sequence[Neuron] | None = None,
        threshold: float = 0.2,
        others: Sequence["NeuronAttribution"] = (),
    ) -> "Picture":
        """Draw attributions by layer; see `factlab.neurons.plot`.

        Args:
            path: where to write them too, as .png, .pdf or .svg.
            chosen: neurons to mark; by default those above the threshold, in all of the prompts.
            threshold: share of a prompt's largest attribution that a neuron must exceed.
            others: the same answer after other prompts; means over all of them are drawn.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these, or the threshold is no
                share.
            StorageError: the file cannot be written.
        """
        from factlab.neurons.plot import plot_neurons  # noqa: PLC0415 - matplotlib

        return plot_neurons([self, *others], path, chosen, threshold)


def check_threshold(threshold: float) -> None:
    """Refuse what is no share of the largest attribution.

    Raises:
        InvalidRequestError: it is not from 0 up to, not including, 1.
    """
    if not 0 <= threshold < 1:
        raise InvalidRequestError(
            f"Threshold {threshold} is not a share of the largest attribution. Choose it from 0 up "
            "to, not including, 1."
        )


# -- finding them ------------------------------------------------------------------------------


@checked(several="fl.neurons.attribute_neurons_each")
def attribute_neurons(
    lm: LanguageModel,
    prompt: str | Fact,
    target: str | None = None,
    config: NeuronConfig | None = None,
    progress: ProgressCallback = silent,
) -> NeuronAttribution:
    """Attribute an answer to the MLP neurons at the prompt's last token.

    Args:
        lm: the model, left as it is.
        prompt: a text that ends where the answer would follow, or a fact.
        target: the answer; by default the fact's `target_true`, or else what the model says next.
        config: see `NeuronConfig`.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: the prompt or the target is empty.
        TokenizationError: the target makes no token of its own, or the text is too long.

    Examples:
        >>> attribution = fl.attribute_neurons(lm, fact)
        >>> strongest = attribution.neurons(threshold=0.5)
        >>> all(neuron.layer < lm.n_layers for neuron in strongest)
        True
    """
    return attribute_neurons_each(lm, [prompt], [target], config, progress)[0]


@checked()
def attribute_neurons_each(
    lm: LanguageModel,
    prompts: Sequence[str | Fact],
    targets: Sequence[str | None] | None = None,
    config: NeuronConfig | None = None,
    progress: ProgressCallback = silent,
) -> list[NeuronAttribution]:
    """The same for several prompts, in batches; see `attribute_neurons`.

    Raises:
        InvalidRequestError: also if there are no prompts, or not as many targets.
    """
    config = config or NeuronConfig()
    lm.abilities.need("neurons")
    if not prompts:
        raise InvalidRequestError("The list of prompts is empty. Give at least one.")
    if targets is None:
        targets = [None] * len(prompts)
    if len(targets) != len(prompts):
        raise InvalidRequestError(
            f"{counted(len(prompts), 'prompt')} but {counted(len(targets), 'target')}. "
            "Give one target for each prompt."
        )
    wanted = [
        prompt.target_true if target is None and isinstance(prompt, Fact) else target
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    texts = [prompt.prompt if isinstance(prompt, Fact) else prompt for prompt in prompts]
    questions = [_question(lm, *pair, config) for pair in zip(texts, wanted, strict=True)]
    quadrature = quadrature_of(config, lm.dtype)
    found = integrated_gradients(lm, questions, quadrature, progress)
    fingerprint = lm.identity.now(live=True, progress=progress).fingerprint
    results: list[NeuronAttribution] = []
    for text, target, question, one in zip(texts, wanted, questions, found, strict=True):
        tokens = tuple(shown(lm.tokenizer, one.target_ids))
        results.append(
            NeuronAttribution(
                prompt=text,
                target=target or "".join(tokens).strip(),
                prompt_ids=question.prompt_ids,
                target_ids=one.target_ids,
                target_tokens=tokens,
                prob=one.prob,
                silenced_probs=one.silenced_probs,
                steps=one.steps,
                attributions=one.attributions,
                config=config,
                model_name=lm.name,
                fingerprint=fingerprint,
            )
        )
        _warn_of_gaps(results[-1], quadrature.tolerance)
    return results


def _warn_of_gaps(found: NeuronAttribution, tolerance: float | None) -> None:
    if tolerance is not None and float(found.gaps.abs().max()) > tolerance * found.prob:
        layer = int(found.gaps.abs().argmax())
        _log.warning(
            "After '%s' the attributions of layer %d miss P(w) - P(0) by %.2g after %d steps. "
            "Raise max_steps for a closer result.",
            found.prompt, layer, float(found.gaps[layer]), int(found.steps[layer]),
        )  # fmt: skip


def _question(
    lm: LanguageModel, prompt: str, target: str | None, config: NeuronConfig
) -> Continuation:
    try:
        return lm.continuation(prompt, target, first_token=config.answer == "first_token")
    except TokenizationError as error:
        if target is None:
            raise
        raise TokenizationError(f"Prompt '{prompt}': {error}") from error


def quadrature_of(config: NeuronConfig, dtype: torch.dtype) -> Quadrature:
    """How to integrate in a model of some dtype, no more exactly than it computes."""
    tolerance = config.tolerance
    if tolerance is not None:
        tolerance = max(tolerance, _ROUNDINGS * torch.finfo(dtype).eps)
    return Quadrature(config.rule, config.steps, tolerance, config.max_steps)
