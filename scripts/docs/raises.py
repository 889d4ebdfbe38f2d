"""Griffe: the errors that a docstring names under `Raises` are links, wherever they are raised."""

from typing import Any

import griffe

_ERRORS = "factlab.errors"


class Raises(griffe.Extension):
    """Resolve the names of errors in `factlab.errors`, not in the module of the docstring."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called when everything is read."""
        if pkg.path in _ERRORS:
            _resolve(pkg, pkg["errors"])


def _resolve(described: Any, errors: griffe.Module) -> None:
    if described.is_alias:
        return
    for section in described.docstring.parsed if described.docstring else ():
        if section.kind is griffe.DocstringSectionKind.raises:
            for raised in section.value:
                if str(raised.annotation) in errors.members:
                    raised.annotation = griffe.ExprName(str(raised.annotation), parent=errors)
    for member in described.members.values():
        _resolve(member, errors)
