"""Every error that factlab raises on purpose.

Each says what failed, the value seen, what is accepted and the next step. The second base class
keeps the ordinary `except ValueError` working; the command line turns any `FactlabError` into one
line and exit code 2.
"""

import difflib
from collections.abc import Iterable


class FactlabError(Exception):
    """Base of all errors below."""


class InvalidRequestError(FactlabError, ValueError):
    """A fact, prompt, option or config value that cannot be used as given."""


class TokenizationError(InvalidRequestError):
    """A text that this tokenizer cannot handle: empty, too long, or without character offsets."""


class ModelLoadError(FactlabError, RuntimeError):
    """A model that cannot be found, downloaded, read or used."""


class UnsupportedModelError(ModelLoadError):
    """A model whose modules are not where factlab needs them."""


class StorageError(FactlabError, OSError):
    """A file that cannot be written, or that is not what it should be."""


class EditError(FactlabError, RuntimeError):
    """An edit that cannot be computed, applied or undone."""


class MemoryLimitError(FactlabError, MemoryError):
    """Memory ran out; the message names the setting to lower."""


class WrongModelError(EditError):
    """An edit or a statistic made for a different model."""


class StatisticsError(FactlabError, RuntimeError):
    """Second-moment statistics that cannot be collected or solved."""


class RareExpertError(StatisticsError, EditError):
    """A fact needs an expert that got too few tokens in the statistics; others can be written."""


class MissingPackageError(FactlabError, ImportError):
    """A package that only this call needs, and that is not installed."""


def nearest(value: str, accepted: Iterable[str]) -> str:
    """A closing phrase for a message: ` Did you mean 'x'?`, or nothing when none is close.

    Nor is there anything to suggest when the value is one of those accepted.
    """
    choices = list(accepted)
    if value in choices:
        return ""
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """How many there are of something: `1 fact`, `2 facts`, `1,209 facts`.

    Args:
        number: of them.
        noun: for one.
        plural: for several, if it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
