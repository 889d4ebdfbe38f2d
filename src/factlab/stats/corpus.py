"""Ordinary text, as rows of token ids: from files, from a data set, or from the model itself."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from factlab.errors import InvalidRequestError, StatisticsError, StorageError
from factlab.models.generation import eos_ids, generate_ids, start_token_id
from factlab.models.language_model import LanguageModel
from factlab.models.texts import tokenise
from factlab.progress import ProgressCallback, silent
from factlab.stats.configs import TextSource
from factlab.storage import cache_dir, first_there, read_tensors, write_tensors


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids to collect statistics from.

    Attributes:
        rows: sequences of ids, each as the model would see the start of a text.
        source: where they are from, in words.
    """

    rows: tuple[tuple[int, ...], ...]
    source: str

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all rows."""
        return sum(map(len, self.rows))

    @property
    def digest(self) -> str:
        """SHA-256 of the ids."""
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()


def corpus_of(
    lm: LanguageModel,
    source: TextSource,
    n_tokens: int,
    row_length: int,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Corpus:
    """Text from where it was asked for.

    Args:
        lm: the model whose tokens it is cut into.
        source: a file, a data set, or by default what the model writes.
        n_tokens: about so much of it.
        row_length: tokens in a row.
        seed: of what the model writes.
        progress: told how far the model is.

    Raises:
        StorageError: there is no such file or data set.
        StatisticsError: there is no text in it.
    """
    if source.text is not None:
        return corpus_from_files(lm, source.text, n_tokens, row_length)
    if source.dataset is not None:
        return corpus_from_dataset(lm, source.dataset, source.dataset_config, n_tokens, row_length)
    return corpus_from_model(lm, n_tokens, row_length, seed, progress)


def corpus_from_texts(
    lm: LanguageModel, texts: Iterable[str], source: str, n_tokens: int, row_length: int
) -> Corpus:
    """Tokenise texts and cut them into rows until there are enough tokens.

    Raises:
        StatisticsError: the texts hold no words.
    """
    rows: list[tuple[int, ...]] = []
    missing = max(n_tokens, 1)
    for text in texts:
        if not text.strip():
            continue
        tokens = tokenise(lm, text)
        # Every row begins as the model would see the start of a text: with BOS, if it has one.
        n_special = tokens.n_special
        step = min(row_length, lm.context_length or row_length) - n_special
        if step < 1:
            raise StatisticsError(
                f"Rows of {row_length} tokens in a context of {lm.context_length} have no room "
                f"for words behind {n_special} special tokens."
            )
        start, ids = tokens.ids[:n_special], tokens.ids[n_special:][:missing]
        rows += [(*start, *ids[i : i + step]) for i in range(0, len(ids), step)]
        missing -= len(ids)
        if missing <= 0:
            break
    if not rows:
        raise StatisticsError(f"{source} holds no text.")
    return Corpus(tuple(rows), source)


def corpus_from_files(lm: LanguageModel, path: Path, n_tokens: int, row_length: int) -> Corpus:
    """Text from one UTF-8 file, or from every `.txt` and `.md` file of a folder, in order of name.

    Raises:
        StorageError: there is no such file, or it is not UTF-8.
    """
    files = (
        sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md"))
        if path.is_dir()
        else [path]
    )
    if not files or not files[0].is_file():
        raise StorageError(f"There is no text file at '{path}'.")
    return corpus_from_texts(lm, _paragraphs(files), f"text of {path.name}", n_tokens, row_length)


def _paragraphs(files: Iterable[Path], characters: int = 4000) -> Iterator[str]:
    """Lines gathered to passages of about this many characters."""
    for path in files:
        passage = ""
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    passage += line
                    if len(passage) >= characters:
                        yield passage
                        passage = ""
        except UnicodeDecodeError as error:
            raise StorageError(f"'{path}' is not UTF-8 text: {error}.") from error
        yield passage


def corpus_from_dataset(
    lm: LanguageModel, name: str, config: str | None, n_tokens: int, row_length: int
) -> Corpus:
    """Text from a Hugging Face data set, streamed: only what is used is downloaded.

    Args:
        lm: whose tokenizer to use.
        name: data set id, such as `wikimedia/wikipedia`; its column `text` is read.
        config: configuration, such as `20231101.en`.
        n_tokens: how many tokens to take.
        row_length: tokens per row.

    Raises:
        StatisticsError: the `datasets` package is missing, or the data set cannot be read.
    """
    try:
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - optional
    except ImportError as error:
        raise StatisticsError(
            "Reading a data set needs the 'datasets' package: pip install 'factlab[hub]'."
        ) from error
    try:
        stream = datasets.load_dataset(name, config, split="train", streaming=True)
        texts = (str(example["text"]) for example in stream)
        return corpus_from_texts(lm, texts, f"data set {name}", n_tokens, row_length)
    except (OSError, ValueError, KeyError) as error:
        raise StatisticsError(f"Cannot read data set '{name}': {error}") from error


def corpus_from_model(
    lm: LanguageModel,
    n_tokens: int,
    row_length: int,
    seed: int,
    progress: ProgressCallback = silent,
    use_cache: bool = True,
) -> Corpus:
    """Text that the model writes itself: sampled at temperature 1 from its start token.

    What a model writes is what it has learned text to be, so its own samples stand in for the
    corpus that it was trained on. Rows are kept in the cache, under a hash of all they depend on,
    the way in which numbers are drawn from the seed included.
    """
    if n_tokens < 1 or row_length < 2:
        raise InvalidRequestError(
            f"n_tokens={n_tokens} and row_length={row_length} are too small to sample text."
        )
    row_length = min(row_length, lm.context_length or row_length)
    n_rows = -(-n_tokens // row_length)
    start, ends = start_token_id(lm), sorted(eos_ids(lm))
    size = f"{n_rows}|{row_length}|{seed}"

    def path_of(fingerprint: str) -> Path:
        recipe = f"sample 3|{fingerprint}|{lm.dtype}|{start}|{ends}|{size}"
        name = hashlib.sha256(recipe.encode()).hexdigest()[:24]
        return cache_dir() / "corpora" / f"{name}.safetensors"

    path = first_there(path_of(lm.live_fingerprint), path_of(lm.identity.as_of_old(live=True)))
    source = f"text sampled from the model (seed {seed})"
    if use_cache and path.exists():
        return Corpus(_read_rows(lm, path, start, (n_rows, row_length)), source)

    def sampling(_label: str, done: int, total: int) -> None:
        progress("sampling text from the model", done, total)

    rows = [[start] for _ in range(n_rows)]
    new = generate_ids(lm, rows, row_length - 1, 0, seed, sampling, may_end=False)
    ids = torch.tensor([[start, *row] for row in new], device="cpu")
    corpus = Corpus(tuple(map(tuple, ids.tolist())), source)
    write_tensors(path, {"ids": ids}, {"digest": corpus.digest})
    return corpus


def _read_rows(
    lm: LanguageModel, path: Path, start: int, shape: tuple[int, int]
) -> tuple[tuple[int, ...], ...]:
    """The rows of a cached sample, if they are what was written.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        tensors, metadata = read_tensors(path)
        ids, fault = tensors.get("ids"), ""
        if ids is None or ids.dtype is not torch.int64 or tuple(ids.shape) != shape:
            fault = f"it does not hold {shape[0]} rows of {shape[1]} token ids"
        elif not bool((ids[:, 0] == start).all()):
            fault = "not every row begins with the start token"
        elif int(ids.min()) < 0 or int(ids.max()) >= lm.embedding.weight.shape[0]:
            fault = "it has ids that are not in the vocabulary"
        else:
            rows = tuple(map(tuple, ids.tolist()))
            digest = metadata.get("digest")  # files of earlier versions have none
            if digest in (None, Corpus(rows, "").digest):
                return rows
            fault = "its ids are not those that were written"
        raise StorageError(f"'{path}' is damaged: {fault}.")
    except StorageError as error:
        raise StorageError(
            f"The cached sample of the model's text is damaged ({error}) Delete that file, or "
            "sample again with 'factlab stats --recompute'."
        ) from error
