"""Versions of what an edit was made with."""

from functools import cache
from importlib.metadata import version


def current_versions() -> dict[str, str]:
    """Versions of what computes an edit."""
    return {name: _version(name) for name in ("factlab", "torch", "transformers")}


@cache
def _version(name: str) -> str:
    """Of an installed package; looking it up takes longer than a small edit."""
    return version(name)
