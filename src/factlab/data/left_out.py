"""`LeftOut`: what of a file does not become part of a record, counted by reason and said."""

from factlab.errors import counted


class LeftOut:
    """What is left out of the records of a file.

    >>> left_out = LeftOut()
    >>> left_out.add("query without an answer", "line 3, record 2")
    >>> str(left_out)
    '1 query without an answer (line 3, record 2)'
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, what: str, where: str, plural: str | None = None, count: int = 1) -> None:
        """Count something.

        Args:
            what: one such thing, in words.
            where: where it stands; that of the first one is said.
            plural: for several such things, if it is not the first word with an s.
            count: how many there are.
        """
        noun, _, rest = what.partition(" ")
        name = f"{what}\n{plural or f'{noun}s {rest}'}"
        before, first = self._found.get(name, (0, where[:1].lower() + where[1:]))
        self._found[name] = (before + count, first)

    def __str__(self) -> str:
        return "; ".join(
            f"{counted(count, *name.split(chr(10)))} ({'first in ' if count > 1 else ''}{where})"
            for name, (count, where) in self._found.items()
        )
