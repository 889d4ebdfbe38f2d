"""`factlab neurons`: which MLP neurons give the answer?"""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.method_options import SetOption, SettingsOption, read_settings
from factlab.cli.registration import LOCATE, command
from factlab.cli.run_options import OverwriteOption
from factlab.cli.session import Session, check_not_empty, validated, validated_settings
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

_BAR_WIDTH = 28


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
    prompt: Annotated[str, typer.Argument(help="A text that ends where the answer would follow.")],
    subject: Annotated[
        str | None, typer.Option(help="What takes the place of {} in prompt and paraphrases.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Answer to attribute; by default what the model says.")
    ] = None,
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(help="Another prompt with the same answer; may be given several times."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many neurons to list.")] = 10,
    steps: Annotated[
        int | None, typer.Option(help="Gradients to sum for each layer.", show_default="10")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Share of the largest attribution that a neuron must exceed.")
    ] = 0.2,
    share: Annotated[
        float, typer.Option(help="Share of the prompts that must have a neuron.")
    ] = 0.7,
    whole: Annotated[
        bool, typer.Option("--whole", help="Attribute the whole target, not its first token.")
    ] = False,
    settings: SettingsOption = None,
    assignments: SetOption = None,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to run at once: less memory, same result.",
            show_default="chosen for speed",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw the picture here (.png .pdf .svg).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the numbers here (.safetensors).")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Find the knowledge neurons of a fact, and what the model says without them."""
    from dataclasses import asdict

    from factlab.editing.configs import KnConfig
    from factlab.neurons.configs import NeuronConfig
    from factlab.pictures import check_picture_path
    from factlab.storage import check_new_file

    texts = _filled([prompt, *(paraphrase or [])], subject)
    if top < 1:
        raise InvalidRequestError(f"--top {top} is no neuron. List 1 or more.")
    if target is not None:
        check_not_empty(target, "target")
    validated(KnConfig, threshold=threshold, share=share)  # what tells a knowledge neuron
    given = validated(
        NeuronConfig,
        steps=steps,
        answer="product" if whole else None,
        max_batch_tokens=max_batch_tokens,
    )
    config = validated_settings(
        NeuronConfig, read_settings(settings, assignments) | given.model_dump(exclude_unset=True)
    )
    if out is not None:
        check_picture_path(out)
    for path in (out, save):
        if path is not None:
            check_new_file(path, overwrite)
    lm = session.load_model()
    from factlab.neurons.attribution import attribute_neurons_each
    from factlab.neurons.choice import prob_with_scaled, shared_neurons

    answers = [target] * len(texts)
    if target is None and texts[1:]:
        # The first prompt's answer is attributed after all; it is a token, with no text to encode.
        said = str(lm.tokenizer.decode([int(lm.next_token_probs(texts[:1])[0].argmax())]))
        answers[1:] = [_an_answer(said, prompt)] * len(texts[1:])
    with session.progress() as report:
        found = attribute_neurons_each(lm, texts, answers, config, report)
        if target is None:
            _an_answer("".join(found[0].target_tokens), prompt)
        first = found[0]
        chosen = shared_neurons(found, threshold, share)
        report("silencing neurons", 0, 2)
        silenced = prob_with_scaled(lm, first, chosen, 0.0)
        report("silencing neurons", 1, 2)
        doubled = prob_with_scaled(lm, first, chosen, 2.0)

    strongest = chosen[0].attribution
    rows = [
        [str(n.layer), str(n.index), f"{n.attribution:.4f}",
         "█" * round(_BAR_WIDTH * max(n.attribution, 0) / max(strongest, 1e-12))]
        for n in chosen[:top]
    ]  # fmt: skip
    title = f"{counted(len(chosen), 'neuron')} for {first.target!r}"
    if len(found) > 1:
        title += f", each in at least {share:.0%} of {len(found)} prompts; means over the prompts"
    session.say(table(["layer", "neuron", "attribution", ""], rows, right={0, 1, 2}, title=title))
    if len(chosen) > top:
        session.say(f"… and {len(chosen) - top} more.")
    session.say(
        f"The model gives {first.target!r} with probability {first.prob:.3f}; with these neurons "
        f"silenced, {silenced:.3f}; with them doubled, {doubled:.3f}."
    )
    if save is not None:
        first.save(save)
        session.say(f"Numbers: {save}")
    if out is not None:
        first.plot(out, chosen, threshold, found[1:])
        session.say(f"Picture: {out}")
    session.emit(
        {
            **first.summary(),
            "prompts": texts,
            "threshold": threshold,
            "share": share,
            "n_neurons": len(chosen),
            "neurons": [asdict(neuron) for neuron in chosen[:top]],
            "layer_sums": first.attributions.sum(1).tolist(),
            "silenced_prob": silenced,
            "doubled_prob": doubled,
        }
    )


def _an_answer(said: str, prompt: str) -> str:
    """What the model says, if it is more than space."""
    if not said.strip():
        raise InvalidRequestError(
            f"After '{prompt}' the model says {said!r}, which is no answer. Give one with --target."
        )
    return said.strip()


def _filled(prompts: list[str], subject: str | None) -> list[str]:
    """Prompts with the subject in its place."""
    from factlab.facts import SLOT, fill

    for text in prompts:
        check_not_empty(text, "prompt")
    if subject is None:
        if any(SLOT in text for text in prompts):
            raise InvalidRequestError(f"A prompt holds '{SLOT}'. Say with --subject what is there.")
        return prompts
    if not subject.strip():
        raise InvalidRequestError(f"--subject is empty. Give what takes the place of '{SLOT}'.")
    absent = [text for text in prompts if SLOT not in text and subject not in text]
    if absent:
        raise InvalidRequestError(
            f"Subject '{subject}' does not occur in prompt '{absent[0]}'. "
            f"Write it there, or '{SLOT}'."
        )
    return [fill(text, subject) for text in prompts]
