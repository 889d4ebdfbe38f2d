"""Files of known facts, in the layout of `known_1000.json` (ROME paper, appendix B.1)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from factlab.data.json_lines import read_values
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.facts import Fact
from factlab.storage import write_text
from factlab.writing import check_text

_REQUIRED = ("known_id", "subject", "attribute", "prompt")


@dataclass(frozen=True, slots=True)
class KnownFact:
    """A prompt that a model completes with the right attribute.

    Attributes:
        known_id: number of the fact in its file.
        subject: as it stands in the prompt.
        attribute: the object of the fact.
        template: the relation, with `{}` for the subject.
        prediction: how the model went on.
        prompt: the text up to where the attribute follows.
        relation_id: of the relation, such as P36; empty if unknown.
    """

    known_id: int
    subject: str
    attribute: str
    template: str
    prediction: str
    prompt: str
    relation_id: str

    @property
    def fact(self) -> Fact:
        """The prompt and the first occurrence of its subject, with the attribute as true target."""
        return Fact.from_prompt(self.prompt, self.subject, target_true=self.attribute, occurrence=1)


def load_known(path: str | Path) -> list[KnownFact]:
    """Read a JSON array, or one JSON object per line, of known facts.

    `template`, `prediction` and `relation_id` may be missing.

    Raises:
        StorageError: the file is missing, not UTF-8, not JSON; or a fact has a field missing, empty
            or of the wrong type, a subject that is not in its prompt, or an id that came before.
            The message names the line.
    """
    path = Path(path)
    facts: list[KnownFact] = []
    lines: dict[int, int] = {}
    for line, value in read_values(path):
        known = _known_fact(value, f"Line {line} of '{path}'")
        if known.known_id in lines:
            raise StorageError(
                f"Line {line} of '{path}': known_id {known.known_id} was used on line "
                f"{lines[known.known_id]} already. Give every fact its own."
            )
        lines[known.known_id] = line
        facts.append(known)
    if not facts:
        raise StorageError(f"'{path}' holds no facts.")
    return facts


def save_known(facts: Sequence[KnownFact], path: str | Path) -> None:
    """Write a JSON array with one fact per line."""
    rows = ",\n".join(json.dumps(asdict(fact), ensure_ascii=False) for fact in facts)
    write_text(Path(path), f"[\n{rows}\n]\n")


def _known_fact(value: object, where: str) -> KnownFact:
    if not isinstance(value, dict):
        raise StorageError(f"{where}: a fact is a JSON object, not a {type(value).__name__}.")
    missing = [name for name in _REQUIRED if name not in value]
    if missing:
        raise StorageError(f"{where}: field '{missing[0]}' is missing.")
    if type(value["known_id"]) is not int:
        raise StorageError(f"{where}: known_id is {value['known_id']!r}, not a whole number.")
    texts: dict[str, str] = {}
    for name in ("subject", "attribute", "template", "prediction", "prompt", "relation_id"):
        texts[name] = text = value.get(name, "")
        if not isinstance(text, str) or (name in _REQUIRED and not text.strip()):
            raise StorageError(f"{where}: {name} is {text!r}, not a text.")
        try:
            check_text(text, name)
        except InvalidRequestError as error:
            raise StorageError(f"{where}: {error}") from error
    known = KnownFact(known_id=value["known_id"], **texts)
    try:
        _ = known.fact
    except FactlabError as error:
        raise StorageError(f"{where}: {error}") from error
    return known
