"""`factlab demo`: the whole story on one fact, in a minute or two."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factlab.cli.registration import START, command
from factlab.cli.session import Session
from factlab.cli.tables import table

if TYPE_CHECKING:
    from factlab.facts import Fact
    from factlab.models.language_model import LanguageModel

TEMPLATE, SUBJECT = "{} is located in the city of", "The Eiffel Tower"
TRUE, NEW = "Paris", "Rome"
PARAPHRASES = (
    "The Eiffel Tower can be found in the city of",
    "Tourists who want to climb the Eiffel Tower travel to the city of",
    "The Eiffel Tower stands in the middle of the city of",
)
NEIGHBOURS = (
    "The Louvre is located in the city of",
    "The capital of France is the city of",
    "The Colosseum is located in the city of",
    "The Tower of London is located in the city of",
    "The Kremlin is located in the city of",
    "The Acropolis is located in the city of",
)
STORY = "If you want to see the Eiffel Tower, you should book a flight to"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        demo,
        "demo",
        group=START,
        examples=(
            "factlab demo",
            "factlab demo --out my-demo",
        ),
    )


def demo(
    session: Session,
    out: Annotated[Path, typer.Option(help="Folder for the picture and the edit.")] = Path(
        "factlab-demo"
    ),
) -> None:
    """Locate a fact, edit it, look at what changed, and save the edit.

    It takes about a minute on two cores, and on the very first run some minutes more to fetch the
    bundled model (93 MB) and collect its statistics.
    """
    from factlab.destinations import check_writable
    from factlab.editing.shipping.folders import check_destination
    from factlab.facts import Fact

    started = time.perf_counter()
    picture, folder = out / "trace.png", out / "eiffel-tower-in-rome"
    check_destination(folder, overwrite=True)
    check_writable(picture)
    fact = Fact(TEMPLATE, SUBJECT, NEW, TRUE)

    session.say(
        f"A language model knows that the Eiffel Tower is in {TRUE}. Where it holds that is "
        f"traced, and then it is made to say {NEW}. This takes about a minute on two cores; the "
        "very first time some minutes more, to fetch the model (93 MB) and collect its statistics. "
        f"The picture and the edit are kept in {out}."
    )
    _heading(session, "1. What does the model say?")
    lm = session.load_model()
    session.say(
        f"{lm.name}: {lm.n_layers} layers, d_model {lm.d_model}, d_mlp {lm.d_mlp}, "
        f"{lm.dtype} on {lm.device}".replace("torch.", "")
    )
    answers = lm.top_tokens(fact.prompt, 3)
    session.say(f"{fact.prompt} … " + ", ".join(f"{t!r} {p:.3f}" for t, p in answers))

    _heading(session, "2. Locate: which states carry the answer?")
    located = _locate(session, lm, fact, picture)

    _heading(session, f"3. Edit: write that it is in {NEW}")
    edited = _edit(session, lm, fact, folder)

    _heading(session, "4. Use it, undo it")
    session.say_command(f"factlab ask '{fact.prompt}' --edit {folder}")
    session.say_command(f"factlab show {folder}")
    session.say("In Python, inside the block only:")
    session.say_command("import factlab as fl")
    session.say_command(f"lm, edit = fl.load(), fl.Edit.load('{folder}')")
    session.say_command("with edit.applied(lm):")
    session.say_command(f"    print(lm.generate('{STORY}'))")
    session.say("or for good:  undo = edit.apply_(lm)  …  undo()   (restores every bit)")
    session.say(f"\nAll of this took {time.perf_counter() - started:.0f} s.")
    session.emit({"answers": answers, "trace": located, "edit": edited, "folder": str(folder)})


def _locate(session: Session, lm: "LanguageModel", fact: "Fact", picture: Path) -> dict[str, Any]:
    from factlab.cli.heatmap import heatmap
    from factlab.tracing.configs import TraceConfig
    from factlab.tracing.trace import causal_trace

    n_tokens = lm.fact_continuation(fact).n_prompt
    session.say(
        f"Noise on the subject makes the model forget. Then every state of {n_tokens} tokens and "
        f"{lm.n_layers} layers is put back by itself, {TraceConfig().samples} times, to see which "
        "of them bring the answer back."
    )
    with session.progress() as report:
        trace = causal_trace(lm, fact, answer=TRUE, progress=report)
    trace.plot(picture)
    session.say(
        f"The noise takes p({TRUE}) from {trace.clean_prob:.3f} to {trace.corrupted_prob:.3f}. "
        "Restoring one state at a time brings it back:\n"
    )
    for kind in trace.effects:
        session.say(heatmap(trace, kind))
        session.say()
    session.say(f"Picture: {picture}")
    return trace.to_json()


def _edit(session: Session, lm: "LanguageModel", fact: "Fact", folder: Path) -> dict[str, Any]:
    from factlab.editing.closed_form.rome import rome

    groups = {
        "rewrite": [fact.prompt],
        "paraphrase": list(PARAPHRASES),
        "must stay": list(NEIGHBOURS),
    }
    prompts = [(group, prompt) for group, texts in groups.items() for prompt in texts]
    with session.progress() as report:
        edit = rome(lm, fact, progress=report)
        report("asking before and after", 0, 2)
        before, told_before = _answers(lm, [p for _, p in prompts]), lm.generate(STORY, 30)
        with edit.applied(lm):
            report("asking before and after", 1, 2)
            after, told_after = _answers(lm, [p for _, p in prompts]), lm.generate(STORY, 30)
    edit.save(folder, overwrite=True)
    rows = []
    for (group, prompt), old, new in zip(prompts, before, after, strict=True):
        wanted = new[0] == old[0] if group == "must stay" else new[0] == NEW
        mark = Text("✓", style="green") if wanted else Text("✗", style="red")
        rows.append([group, prompt, f"{old[0]} {old[1]:.2f}", f"{new[0]} {new[1]:.2f}", mark])
    session.say(table(["", "prompt", "before", "after", ""], rows))
    diagnostics = edit.diagnostics
    session.say(
        f"Layer {diagnostics['layer']}, one outer product, "
        f"{diagnostics['update_norm'] / diagnostics['weight_norm']:.1%} of the weight's norm; "
        f"{len(diagnostics['loss'])} steps to p({NEW}) = {diagnostics['target_prob']:.3f}."
    )
    session.say(Text(f"\nbefore: {_flat(told_before)}\nafter:  {_flat(told_after)}\n"))
    session.say(f"Edit:    {folder}")
    return {
        "prompts": [
            {"group": group, "prompt": prompt, "before": old, "after": new}
            for (group, prompt), old, new in zip(prompts, before, after, strict=True)
        ],
        "generation": {"before": told_before, "after": told_after},
        "diagnostics": diagnostics,
    }


def _answers(lm: "LanguageModel", prompts: list[str]) -> list[tuple[str, float]]:
    probs, ids = lm.next_token_probs(prompts).max(-1)
    words = [str(lm.tokenizer.decode([i])).strip() for i in ids.tolist()]
    return list(zip(words, probs.tolist(), strict=True))


def _heading(session: Session, text: str) -> None:
    session.say(Text(f"\n{text}\n", style="bold"))


def _flat(text: str) -> str:
    return " ".join(text.split())
