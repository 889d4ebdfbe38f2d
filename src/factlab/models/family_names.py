"""Names of the families that `tiny:` can make, known without importing transformers or PyTorch.

transformers lists in one file which families write text. Importing that takes seconds; here the
file is read as text.
"""

import functools
import importlib.util
import re
from pathlib import Path

from factlab.errors import InvalidRequestError, nearest
from factlab.families import ARCHITECTURES

_TABLES = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
_ROW = re.compile(r'^\s+\("([^"]+)",', re.MULTILINE)


@functools.cache
def family_names() -> tuple[str, ...]:
    """Model types of the installed transformers that write text, and those of factlab's table."""
    names = set(ARCHITECTURES)
    text = _tables_of_transformers()
    for table in _TABLES:
        _, _, rest = text.partition(f"\n{table} = ")
        names |= set(_ROW.findall(rest.partition("\n)")[0]))
    return tuple(sorted(names))


def check_family(family: str) -> None:
    """Refuse what is no family of models that write text.

    Raises:
        InvalidRequestError: it is none; the message has the name that is nearest.
    """
    if family not in family_names():
        raise InvalidRequestError(
            f"transformers has no family '{family}' of models that write text."
            f"{nearest(family, family_names())}"
        )


def _tables_of_transformers() -> str:
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return ""
    try:
        return (Path(found.origin).parent / "models/auto/modeling_auto.py").read_text("utf-8")
    except OSError:
        return ""
