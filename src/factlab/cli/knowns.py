"""`factlab knowns build`: a file of facts that the model knows."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.options import OverwriteOption
from factlab.cli.registration import MODELS, Commands, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import counted


def register(app: typer.Typer) -> None:
    """Add the commands."""
    knowns = typer.Typer(no_args_is_help=True, help="Facts that a model knows.", cls=Commands)
    # A callback keeps `build` a name of its own while it is the only command.
    knowns.callback()(lambda: None)
    command(
        knowns,
        build,
        "build",
        examples=(
            "factlab knowns build --facts facts.tsv --templates templates.tsv --out known.json",
        ),
    )
    app.add_typer(knowns, name="knowns", rich_help_panel=MODELS)


def build(
    session: Session,
    out: Annotated[Path, typer.Option(help="Write known facts here (.json).")],
    facts: Annotated[
        Path | None,
        typer.Option(help="Tab-separated file with the columns relation, subject, object."),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="Tab-separated file with the columns relation, pattern ([X] is [Y])."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Prompts as they are, instead of the two files: builtin, builtin-reasoning, or a "
            "file of known facts."
        ),
    ] = None,
    relation: Annotated[
        str | None, typer.Option(help="Those of --data of this relation only.", show_default="all")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop when so many are known.")] = None,
    shuffle: Annotated[
        int | None, typer.Option(help="Ask in the random order that this seed gives.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Ask the model for facts, and keep those that it knows, in the words in which it knows them.

    A fact is known if the model, going on greedily, names the object before any other capitalised
    word; a prompt of --data, if it says the first token of the answer next.
    """
    import random

    from factlab.data.known import save_known
    from factlab.data.known_sources import known_facts
    from factlab.data.relations import load_templates, load_triples
    from factlab.destinations import check_new_file
    from factlab.errors import InvalidRequestError

    if limit is not None and limit < 1:
        raise InvalidRequestError(f"--limit {limit} must be at least 1.")
    check_new_file(out, overwrite)
    if (data is None) == (facts is None or templates is None) or (data and (facts or templates)):
        raise InvalidRequestError("Give --facts and --templates, or --data.")
    prompts = [] if data is None else known_facts(data, relation)
    triples = [] if facts is None else load_triples(facts)
    patterns = {} if templates is None else load_templates(templates)
    for asked in (prompts, triples):
        if shuffle is not None:
            random.Random(shuffle).shuffle(asked)  # noqa: S311 - not a secret
    lm = session.load_model()
    from factlab.tracing.knowns import build_known, known_among

    with session.progress() as report:
        if data is None:
            known = build_known(lm, triples, patterns, limit=limit, progress=report)
        else:
            known = known_among(lm, prompts, limit=limit, progress=report)
    save_known(known, out)
    session.say(f"{counted(len(known), 'known fact')}: {out}")
    rows = [[fact.prompt, fact.prediction.strip().split("\n")[0]] for fact in known[:8]]
    session.say(table(["prompt", "the model goes on"], rows))
    session.emit({"model": lm.name, "out": str(out), "n_known": len(known)})
