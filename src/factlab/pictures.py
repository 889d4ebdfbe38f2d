"""Names of picture files, checked before there is anything to draw."""

from pathlib import Path

from factlab.errors import InvalidRequestError, nearest

FORMATS = ("png", "pdf", "svg")


def check_picture_path(path: Path) -> None:
    """Refuse a file name that no picture format belongs to.

    Raises:
        InvalidRequestError: the suffix is not one of `FORMATS`.
    """
    suffix = path.suffix.removeprefix(".")
    if suffix not in FORMATS:
        raise InvalidRequestError(
            f"Cannot draw to '{path}': the name must end in one of "
            f"{', '.join('.' + f for f in FORMATS)}.{nearest(suffix, FORMATS)}"
        )
