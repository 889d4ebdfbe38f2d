"""`factlab neurons`: which MLP neurons give the answer?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.options import OverwriteOption, Settings
from factlab.cli.registration import LOCATE, command
from factlab.cli.session import Session, check_outputs, validated
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError
from factlab.settings import made_of

if TYPE_CHECKING:
    from factlab.neurons.configs import NeuronRequest
    from factlab.neurons.knowledge import KnowledgeNeurons

_BAR_WIDTH = 28


_Out = Annotated[Path | None, typer.Option(help="Draw the picture here (.png .pdf .svg).")]


@dataclass(frozen=True, kw_only=True)
class _NeuronOptions:
    """Which neurons to find."""

    prompt: Annotated[str, typer.Argument(help="A text that ends where the answer would follow.")]
    subject: Annotated[
        str | None, typer.Option(help="What takes the place of {} in prompt and paraphrases.")
    ] = None
    target: Annotated[
        str | None, typer.Option(help="Answer to attribute; by default what the model says.")
    ] = None
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(help="Another prompt with the same answer; may be given several times."),
    ] = None
    top: Annotated[int, typer.Option(help="How many neurons to list.")] = 10
    steps: Annotated[
        int | None, typer.Option(help="Gradients to sum for each layer.", show_default="10")
    ] = None
    threshold: Annotated[
        float, typer.Option(help="Share of the largest attribution that a neuron must exceed.")
    ] = 0.2
    share: Annotated[float, typer.Option(help="Share of the prompts that must have a neuron.")] = (
        0.7
    )
    whole: Annotated[
        bool, typer.Option("--whole", help="Attribute the whole target, not its first token.")
    ] = False

    def request(self, settings: dict[str, Any]) -> "NeuronRequest":
        """What these options ask for, with some settings that they win over.

        Raises:
            InvalidRequestError: an option or a setting makes no sense.
        """
        from factlab.neurons.configs import NeuronConfig, NeuronRequest

        if self.top < 1:
            raise InvalidRequestError(f"--top {self.top} is no neuron. List 1 or more.")
        answer = "product" if self.whole else None
        given = validated(NeuronConfig, steps=self.steps, answer=answer)
        return validated(
            NeuronRequest,
            prompt=self.prompt,
            paraphrases=tuple(self.paraphrase or ()),
            subject=self.subject,
            target=self.target,
            threshold=self.threshold,
            share=self.share,
            config=made_of(NeuronConfig, settings | given.model_dump(exclude_unset=True)),
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        neurons,
        "neurons",
        group=LOCATE,
        examples=(
            'factlab neurons "Tokyo is the capital of" --out tokyo.png',
            'factlab neurons "{} is the capital of" --subject Tokyo \\\n'
            '      --paraphrase "{} is the main city of" --target Japan',
        ),
    )


def neurons(
    session: Session,
    *,
    asked: _NeuronOptions,
    more: Settings,
    out: _Out = None,
    save: Annotated[Path | None, typer.Option(help="Keep the numbers here (.safetensors).")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Find the knowledge neurons of a fact, and what the model says without them."""
    request = asked.request(more.values())
    check_outputs(out, save, overwrite)
    lm = session.load_model()
    from factlab.neurons.knowledge import find_neurons

    with session.progress() as report:
        found = find_neurons(lm, request, report)
    _show(session, found, asked.top)
    if save is not None:
        found.attributions[0].save(save)
        session.say(f"Numbers: {save}")
    if out is not None:
        found.plot(out)
        session.say(f"Picture: {out}")
    session.emit(found.to_json(asked.top))


def _show(session: Session, found: "KnowledgeNeurons", top: int) -> None:
    strongest = max(found.neurons[0].attribution, 1e-12)
    rows = [
        [str(n.layer), str(n.index), f"{n.attribution:.4f}",
         "█" * round(_BAR_WIDTH * max(n.attribution, 0) / strongest)]
        for n in found.neurons[:top]
    ]  # fmt: skip
    heads = ["layer", "neuron", "attribution", ""]
    session.say(table(heads, rows, right={0, 1, 2}, title=found.title))
    if len(found.neurons) > top:
        session.say(f"… and {len(found.neurons) - top} more.")
    session.say(found.in_words())
