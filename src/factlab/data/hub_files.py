"""Records from the Hugging Face hub: `hf:owner/dataset` or `hf:owner/dataset:file`."""

from collections.abc import Iterator
from pathlib import Path

from factlab.data.json_lines import read_values
from factlab.data.layouts.uniedit import is_entry
from factlab.errors import InvalidRequestError, StorageError

PREFIX = "hf:"
_JSON = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def hub_values(source: str) -> Iterator[tuple[str, object]]:
    """The rows of a data set, each with where it stands.

    A JSON file of it is downloaded as it is. Otherwise, and if no file is named, the rows of all
    its splits are read one after another with the `datasets` package.

    Raises:
        InvalidRequestError: the source is not written like this.
        StorageError: it cannot be downloaded, or the `datasets` package is missing.
    """
    name, _, file = source.removeprefix(PREFIX).partition(":")
    owner, _, dataset = name.partition("/")
    if not (owner and dataset) or "/" in dataset:
        raise InvalidRequestError(
            f"'{source}' is no data set on the hub. Write hf:owner/dataset, or with "
            ":file behind it."
        )
    if file.endswith(_JSON):
        path = hub_file(name, file)
        return (
            (f"Line {line} of '{source}'", value) for line, value in read_values(path, is_entry)
        )
    return _rows(source, name, file)


def hub_file(name: str, file: str) -> Path:
    """A file of a data set, in the hub's own cache.

    Raises:
        StorageError: it cannot be downloaded.
    """
    import huggingface_hub  # noqa: PLC0415 - slow to import, and seldom needed

    try:
        return Path(huggingface_hub.hf_hub_download(name, file, repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"Cannot download '{file}' of data set '{name}': {error}. Check both names and the "
            "network, or download the file by hand and give its path."
        ) from error


def _rows(source: str, name: str, file: str) -> Iterator[tuple[str, object]]:
    try:
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - optional
    except ImportError as error:
        raise StorageError(
            f"Reading '{source}' needs the 'datasets' package: pip install 'factlab[hub]'. "
            f"Or name a JSON file of it: hf:{name}:file.json."
        ) from error
    try:
        splits = datasets.load_dataset(name, data_files=file or None, streaming=True)
        for split, rows in splits.items():
            for number, row in enumerate(rows, start=1):
                yield f"Row {number} of '{source}' ({split})", row
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"Cannot read data set '{source}': {error}") from error
