"""`StudiedMethod`: a method with settings in one word, such as `memit:remember=false`."""

import re
from typing import Any

from factlab.config import Config
from factlab.editing.method_choice import MethodRequest
from factlab.errors import InvalidRequestError
from factlab.settings import read_settings

# A comma that the next setting follows, not one inside a list.
_BETWEEN = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")
_SETTING = re.compile(r"\s*[A-Za-z_][\w.]*\s*=\s*\S.*")


class StudiedMethod(Config):
    """A method beside others, perhaps the same one with other settings.

    Attributes:
        label: what to call it in pictures and tables.
        method: the method with its settings.
    """

    label: str
    method: MethodRequest

    @classmethod
    def parse(cls, text: str) -> "StudiedMethod":
        """Read `NAME` or `NAME:setting=value,setting=value`; values are written as in TOML.

            >>> from factlab.evaluation.studies.method_specs import StudiedMethod
            >>> StudiedMethod.parse("memit:layers=[0, 1],value.steps=5").label
            'memit (layers=[0, 1], value.steps=5)'

        Raises:
            InvalidRequestError: it cannot be read so.
        """
        name, colon, rest = text.partition(":")
        given = [one.strip() for one in _BETWEEN.split(rest)] if colon else []
        if not name.strip() or not all(_SETTING.fullmatch(one) for one in given):
            raise InvalidRequestError(
                f"Method '{text}' is not understood. Write its name, and settings behind a colon: "
                "memit, or memit:layers=[0,1],value.steps=5."
            )
        label = name.strip() + (f" ({', '.join(given)})" if given else "")
        request = MethodRequest(name=name.strip(), settings=read_settings(None, given))
        return cls(label=label, method=request)

    @property
    def folder(self) -> str:
        """Its label as the name of a folder."""
        return re.sub(r"[^\w.=+]+", "-", self.label).replace("=-", "=").strip("-")


def methods_listed(value: Any) -> Any:
    """Methods that are given as texts, read; others as they are."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return tuple(StudiedMethod.parse(one) if isinstance(one, str) else one for one in value)
