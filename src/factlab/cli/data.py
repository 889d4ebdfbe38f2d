"""`factlab data`: what benchmark records hold, and compiling them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.options import (
    LimitOption,
    OffsetOption,
    OverwriteOption,
    RelationOption,
    ShuffleOption,
    SourceArgument,
)
from factlab.cli.registration import MODELS, NO_MODEL, Commands, command
from factlab.cli.session import Session, validated
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

if TYPE_CHECKING:
    from factlab.data.build import BuildRequest
    from factlab.data.composition import Composition
    from factlab.data.records import Record

_PROMPTS = ("paraphrase prompts", "neighborhood prompts", "generation prompts")


@dataclass(frozen=True, kw_only=True)
class _BuildOptions:
    """What to compile records from."""

    facts: Annotated[
        Path,
        typer.Option(
            help="Tab-separated file with the columns relation, subject, object, and if wanted "
            "subject_id, object_id."
        ),
    ]
    patterns: Annotated[
        Path,
        typer.Option(
            help="Tab-separated file with the columns relation, pattern ([X] is [Y]), and if "
            "wanted kind (rewrite, paraphrase, generation, question, statement)."
        ),
    ]
    zsre: Annotated[bool, typer.Option(help="Questions in the way of zsRE; needs kinds.")] = False
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0
    limit: LimitOption = None
    asides: Annotated[
        Path | None,
        typer.Option(help="Text file; one of its lines is put before each paraphrase."),
    ] = None
    about: Annotated[
        Path | None,
        typer.Option(help="Tab-separated file with the columns object, about; for references."),
    ] = None
    wikidata: Annotated[
        bool, typer.Option(help="Ask Wikidata for more subjects of objects with an object_id.")
    ] = False
    endpoint: Annotated[
        str | None, typer.Option(help="SPARQL endpoint to ask instead of Wikidata's.")
    ] = None

    def request(self) -> "BuildRequest":
        """What these options ask for.

        Raises:
            InvalidRequestError: one makes no sense.
        """
        from factlab.data.build import BuildRequest

        return validated(BuildRequest, **vars(self))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    data = typer.Typer(no_args_is_help=True, help="Records of benchmarks.", cls=Commands)
    command(
        data,
        stats,
        "stats",
        examples=(
            "factlab data stats builtin",
            "factlab data stats counterfact --limit 100 --known",
        ),
    )
    command(
        data,
        show,
        "show",
        takes=NO_MODEL,
        examples=("factlab data show builtin --case 3",),
    )
    command(
        data,
        build,
        "build",
        takes=NO_MODEL,
        examples=("factlab data build --facts facts.tsv --patterns patterns.tsv --out mine.json",),
    )
    app.add_typer(data, name="data", rich_help_panel=MODELS)


def stats(
    session: Session,
    source: SourceArgument = "builtin",
    offset: OffsetOption = 0,
    limit: LimitOption = None,
    relation: RelationOption = None,
    seed: ShuffleOption = None,
    known: Annotated[
        bool, typer.Option(help="Ask the model which of the true facts it knows.")
    ] = False,
) -> None:
    """Count what a data set holds, in all and by relation.

    With --known, a fact counts as known if the model's most probable next token after the rewriting
    prompt is the first of the true object.
    """
    from dataclasses import asdict

    from factlab.data.composition import composition
    from factlab.data.record_files import load_records, record_hash

    with session.progress() as report:
        records = load_records(source, offset, limit, relation, seed, report)
    flags, model = None, None
    if known:
        if records[0].benchmark == "zsre":
            raise InvalidRequestError(
                "--known asks for the true object, and zsRE records have none. Leave it out."
            )
        lm = session.load_model()
        from factlab.tracing.knowns import knows

        with session.progress() as report:
            flags, model = knows(lm, [record.fact for record in records], progress=report), lm.name
    found, digest = composition(records, flags), record_hash(records)
    for shown in _tables(found):
        session.say(shown)
    if found.known_share is not None:
        session.say(f"{model} knows {found.known_share:.1%} of the true facts.")
    session.say(f"sha256 of the records: {digest}")
    session.emit(
        {"source": source, "n_records": len(records), "sha256": digest, "model": model}
        | asdict(found)
    )


def show(
    session: Session,
    source: SourceArgument = "builtin",
    case: Annotated[int | None, typer.Option(help="case_id; the first record by default.")] = None,
) -> None:
    """Lay one record out."""
    from factlab.data.record_files import load_records

    with session.progress() as report:
        records = load_records(source, limit=1 if case is None else None, progress=report)
    found = [record for record in records if case is None or record.case_id == case]
    if not found:
        ids = [record.case_id for record in records]
        raise InvalidRequestError(
            f"No record of '{source}' has case_id {case}. There are {len(ids)}, from {min(ids)} to "
            f"{max(ids)}."
        )
    record = found[0]
    session.say(table(["", f"record {record.case_id} of {source}"], _laid_out(record)))
    session.emit(record.to_json())


def build(
    session: Session,
    sources: _BuildOptions,
    out: Annotated[Path, typer.Option(help="Write records here (.json).")],
    overwrite: OverwriteOption = False,
) -> None:
    """Compile records from facts and patterns, as CounterFact was, and the texts beside them."""
    from factlab.data.build import build_records
    from factlab.data.composition import composition
    from factlab.data.reference_files import references_beside
    from factlab.destinations import check_new_file

    if out.suffix != ".json":
        raise InvalidRequestError(f"--out '{out}' must end with .json.")
    request = sources.request()
    beside = references_beside(out)
    for path in (out, beside):
        check_new_file(path, overwrite)
    with session.progress() as report:
        built = build_records(request, report)
    built.save(out)
    session.say(_tables(composition(built.records))[0])
    session.say(f"{counted(len(built.records), 'record')}: {out}")
    if built.n_references:
        session.say(f"{built.n_references} reference texts: {beside}")
    for why, count in built.skipped.items():
        session.say(f"{counted(count, 'fact')} left out: {why}")
    written = str(beside) if built.n_references else None
    session.emit({"out": str(out), "references": written} | built.to_json())


def _tables(found: "Composition") -> list[object]:
    from factlab.data.relation_names import relation_label

    items = [
        [count.item, f"{count.total:,}", f"{count.per_relation:,.1f}", f"{count.per_record:.1f}"]
        for count in found.items
    ]
    shown = ["records", "subjects", "objects", *_PROMPTS]
    relations = [
        [
            relation_label(relation.relation_id) or "—",
            *(f"{relation.counts[item]:,}" for item in shown),
        ]
        + ([] if relation.known_share is None else [f"{relation.known_share:.0%}"])
        for relation in found.relations
    ]
    heads = ["relation", *(item.removesuffix(" prompts") for item in shown)]
    heads += [] if found.known_share is None else ["known"]
    return [
        table(["different", "in all", "per relation", "per record"], items, right={1, 2, 3}),
        table(heads, relations, right=set(range(1, len(heads)))),
    ]


def _laid_out(record: "Record") -> list[list[str]]:
    from factlab.data.relation_names import relation_label

    fact = record.fact
    rows = [
        ["benchmark", record.benchmark],
        ["relation", relation_label(record.relation_id) or "—"],
        ["rewriting prompt", fact.prompt],
        ["subject", fact.subject],
        ["new target", " ".join(filter(None, (fact.target_new, record.new_id)))],
        ["true target", " ".join(filter(None, (fact.target_true, record.true_id))) or "—"],
        ["paraphrases", "\n".join(record.paraphrase_prompts) or "—"],
        ["neighbourhood", "\n".join(record.neighborhood_prompts) or "—"],
    ]
    if record.neighborhood_answers:
        rows.append(["right there", "\n".join(record.neighborhood_answers)])
    rows.append(["attribute", "\n".join(record.attribute_prompts) or "—"])
    rows.append(["generation", "\n".join(record.generation_prompts) or "—"])
    if record.question_prompts:
        rows.append(["questions", "\n".join(record.question_prompts)])
    if record.new_aliases:
        rows.append(["new target is also", "\n".join(record.new_aliases)])
    if record.ripple:
        asked = (f"{q.axis}: {q.prompt} → {' | '.join(q.answers)}" for q in record.ripple)
        rows.append(["ripple", "\n".join(asked)])
    return rows
