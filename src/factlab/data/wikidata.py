"""`Wikidata`: questions to a SPARQL endpoint, politely, with the answers kept on disk.

CounterFact's neighbours and attribute prompts are about subjects that Wikidata names (ROME paper,
appendix D).
"""

import email.utils
import hashlib
import http.client
import re
import time
import unicodedata
import urllib.error
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from factlab.data.bounded_http import TooLargeError, get
from factlab.documents import JsonValue, parse_json
from factlab.errors import InvalidRequestError, StorageError
from factlab.storage import cache_dir, read_json, write_json

ENDPOINT = "https://query.wikidata.org/sparql"
_USER_AGENT = "factlab/0.1 (https://pypi.org/project/factlab; benchmark compilation) urllib"
_ENTITY = "http://www.wikidata.org/entity/"
_PREFIXES = """\
PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX wdt: <http://www.wikidata.org/prop/direct/>
PREFIX wikibase: <http://wikiba.se/ontology#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
"""
_LONGEST_WAIT_S = 120.0
_LARGEST_ANSWER = 1 << 24  # bytes; 200 items with their names are some ten thousand


class Named(NamedTuple):
    """An item of Wikidata.

    Attributes:
        id: such as Q90.
        label: its English name.
    """

    id: str
    label: str


class Attribute(NamedTuple):
    """A statement about an item.

    Attributes:
        relation_id: such as P36.
        object_id: such as Q90.
        object: the object's English name.
    """

    relation_id: str
    object_id: str
    object: str


class Wikidata:
    """A SPARQL endpoint that knows Wikidata's items.

    Args:
        endpoint: its URL.
        cache: folder in which answers are kept; the user's cache by default. An answer is never
            asked for twice: delete the folder to ask again.
        min_interval_s: seconds from one request to the next, at least.
        timeout_s: how long to wait for an answer, from the connection to its last byte.
        retries: how often to try again after a timeout or when the endpoint is busy, each time
            waiting twice as long, or as long as it asks for.
        max_answers: ask for no more than this many items at once.
        sleep: waits; for tests.
        clock: seconds that go on; for tests.

    Raises:
        InvalidRequestError: the endpoint is no http or https address.
    """

    def __init__(
        self,
        endpoint: str = ENDPOINT,
        cache: str | Path | None = None,
        min_interval_s: float = 1.0,
        timeout_s: float = 60,
        retries: int = 4,
        max_answers: int = 200,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise InvalidRequestError(
                f"Endpoint '{endpoint}' is no web address. Give one like {ENDPOINT}."
            )
        self.endpoint = endpoint
        self._cache = cache_dir() / "wikidata" if cache is None else Path(cache)
        self._min_interval_s, self._timeout_s = min_interval_s, float(timeout_s)
        self._retries = retries
        self._max_answers = max_answers
        self._sleep, self._clock = sleep, clock
        self._asked_at: float | None = None

    def subjects_with(self, relation_id: str, object_id: str) -> list[Named]:
        """Items of which a statement is true, in order of their numbers.

        Raises:
            InvalidRequestError: an id is not of the form P36 or Q90.
            StorageError: the endpoint cannot be reached or gives no sensible answer.
        """
        relation_id, object_id = _checked("P", relation_id), _checked("Q", object_id)
        rows = self._rows(
            "SELECT DISTINCT ?item ?label WHERE {\n"
            f"  ?item wdt:{relation_id} wd:{object_id} ; rdfs:label ?label .\n"
            f'  FILTER(LANG(?label) = "en")\n}} LIMIT {self._max_answers}',
            ("item", "label"),
        )
        found = {
            Named(_id(item), label) for item, label in rows if _is_item(item) and _is_name(label)
        }
        return sorted(found, key=lambda named: (int(named.id[1:]), named.label))

    def names_with(self, relation_id: str, object_id: str) -> list[str]:
        """The names of those items; a name that two of them have is left out."""
        names = [named.label for named in self.subjects_with(relation_id, object_id)]
        return [name for name in names if names.count(name) == 1]

    def attributes_of(self, subject_id: str) -> list[Attribute]:
        """What is stated of an item, as far as the objects are items with an English name.

        Raises:
            InvalidRequestError: the id is not of the form Q90.
            StorageError: the endpoint cannot be reached or gives no sensible answer.
        """
        subject_id = _checked("Q", subject_id)
        rows = self._rows(
            "SELECT DISTINCT ?relation ?item ?label WHERE {\n"
            f"  wd:{subject_id} ?direct ?item .\n"
            "  ?relation wikibase:directClaim ?direct .\n"
            "  ?item rdfs:label ?label .\n"
            f'  FILTER(LANG(?label) = "en")\n}} LIMIT {self._max_answers}',
            ("relation", "item", "label"),
        )
        return sorted(
            {
                Attribute(_id(relation), _id(item), label)
                for relation, item, label in rows
                if _is_item(item) and _is_name(label)
            }
        )

    def _rows(self, query: str, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The answer to a query, from disk if it was asked before."""
        query = _PREFIXES + query
        key = hashlib.sha256(f"{self.endpoint}\n{query}".encode()).hexdigest()
        path = self._cache / f"{key}.json"
        if path.exists():
            kept = read_json(path)
            try:
                return _bindings(kept.get("answer"), names)
            except ValueError as error:
                raise StorageError(f"'{path}' is damaged: {error}. Delete it.") from error
        answer = self._ask(query)
        try:
            rows = _bindings(answer, names)
        except ValueError as error:
            raise StorageError(
                f"'{self.endpoint}' answered, but not with the results of a SPARQL query: {error}. "
                "Check that the address is that of a SPARQL endpoint."
            ) from error
        write_json(path, {"endpoint": self.endpoint, "query": query, "answer": answer})
        return rows

    def _ask(self, query: str) -> JsonValue:
        """Send a query, again if need be."""
        for attempt in range(self._retries + 1):
            self._keep_distance()
            try:
                return self._get(query)
            except _BusyError as busy:
                if attempt == self._retries:
                    raise StorageError(
                        f"'{self.endpoint}' gave no answer in {attempt + 1} tries: {busy}. Try "
                        "later; what was answered so far is kept."
                    ) from busy
                wanted_s = busy.wait_s if busy.wait_s is not None else 2.0**attempt
                self._sleep(min(wanted_s, _LONGEST_WAIT_S))
        raise InvalidRequestError(f"retries={self._retries} must be at least 0.")

    def _keep_distance(self) -> None:
        if self._asked_at is not None:
            left_s = self._asked_at + self._min_interval_s - self._clock()
            if left_s > 0:
                self._sleep(left_s)
        self._asked_at = self._clock()

    def _get(self, query: str) -> JsonValue:
        parameters = urllib.parse.urlencode({"query": query, "format": "json"})
        try:
            data = get(
                f"{self.endpoint}?{parameters}",
                {"User-Agent": _USER_AGENT, "Accept": "application/sparql-results+json"},
                self._timeout_s,
                _LARGEST_ANSWER,
            )
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(200).decode("utf-8", "replace").split("\n")[0]
            if error.code == 429 or error.code >= 500:
                wait_s = _retry_after_s(error.headers.get("Retry-After"))
                raise _BusyError(f"status {error.code}", wait_s) from error
            reason = error.reason if 300 <= error.code < 400 else said
            raise StorageError(
                f"'{self.endpoint}' refused a query with status {error.code}: {_plain(reason)}"
            ) from error
        except TimeoutError as error:
            raise _BusyError(f"no answer within {self._timeout_s:g} s") from error
        except TooLargeError as error:
            raise StorageError(
                f"'{self.endpoint}' answers with more than {_LARGEST_ANSWER >> 20} MiB, which no "
                "answer to these queries has. Check that the address is that of a SPARQL endpoint."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _BusyError(f"no answer within {self._timeout_s:g} s") from error
            raise _BusyError(_plain(reason) or type(error).__name__) from error
        try:
            return parse_json(data, "The answer")
        except StorageError as error:
            start = data[:60].decode("utf-8", "replace")
            raise StorageError(
                f"'{self.endpoint}' answered with something that is not JSON: {start!r}. Check "
                "that the address is that of a SPARQL endpoint."
            ) from error


class _BusyError(Exception):
    """The endpoint may answer later; `wait_s` if it says when."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _checked(kind: str, item_id: str) -> str:
    """An id that may go into a query: it holds nothing but a letter and a number."""
    if not re.fullmatch(rf"{kind}[1-9][0-9]*", item_id, re.ASCII):
        what, example = ("relation", "P36") if kind == "P" else ("item", "Q90")
        raise InvalidRequestError(
            f"'{item_id}' is no identifier of a Wikidata {what}. Write it like {example}."
        )
    return item_id


def _bindings(answer: object, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The values of a SPARQL answer in JSON; ValueError if it has another shape."""
    try:
        rows = answer["results"]["bindings"]  # pyright: ignore[reportIndexIssue,reportOptionalSubscript]
        found = [tuple(row[name]["value"] for name in names) for row in rows]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"results.bindings is not there or lacks {', '.join(names)}") from error
    if not all(isinstance(value, str) for row in found for value in row):
        raise ValueError("a value in it is not a text")
    return found


def _plain(reason: object) -> str:
    """What a server said, on one line and without control characters."""
    text = " ".join(str(reason).split())[:200]
    return text if text.isprintable() else ascii(text)


def _is_name(label: str) -> bool:
    return bool(label.strip()) and not any(unicodedata.category(sign) == "Cc" for sign in label)


def _is_item(address: str) -> bool:
    return re.fullmatch(rf"{re.escape(_ENTITY)}Q[1-9][0-9]*", address, re.ASCII) is not None


def _id(address: str) -> str:
    return address.removeprefix(_ENTITY)


def _retry_after_s(value: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
