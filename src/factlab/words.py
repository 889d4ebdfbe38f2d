"""Numbers and nouns that agree."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and what is counted: `1 fact`, `2 facts`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
