"""Results as pandas data frames, for those who have pandas."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from factlab.errors import MissingPackageError

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]


def data_frame(rows: Sequence[Mapping[str, object]]) -> "pandas.DataFrame":
    """Rows as a data frame.

    Raises:
        MissingPackageError: pandas, which factlab itself does not need, is not installed.
    """
    try:
        module = importlib.import_module("pandas")
    except ImportError as error:
        raise MissingPackageError(
            "to_pandas needs the package pandas, which is not installed: pip install pandas. "
            "rows() gives the same without it."
        ) from error
    return module.DataFrame([*rows])
