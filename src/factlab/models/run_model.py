"""How a run on disk says which model it was made with."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlab.documents import JsonValue
from factlab.progress import ProgressCallback, silent
from factlab.storage import read_json

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


def run_model(
    lm: "LanguageModel", folder: Path | None, progress: ProgressCallback = silent
) -> dict[str, JsonValue]:
    """What a run in a folder says of its model, which must be the same when it goes on.

    A run that an earlier factlab began on this very model goes on under the fingerprint that it
    was begun with; those runs said nothing of the tokenizer.

    Args:
        lm: the model.
        folder: of the run; None if it is kept nowhere.
        progress: see `LanguageModel.identity`.
    """
    fingerprint, tokenizer = lm.identity.now(live=True, progress=progress)
    dtype = str(lm.dtype)
    if folder is not None and (folder / "run.json").exists():
        request = read_json(folder / "run.json").get("request")
        written = request.get("model") if isinstance(request, dict) else None
        before = written.get("fingerprint") if isinstance(written, dict) else None
        if isinstance(written, dict) and "tokenizer" not in written and isinstance(before, str):
            known = before if lm.identity.matches(before, live=True) else fingerprint
            return {"name": lm.name, "fingerprint": known, "dtype": dtype}
    return {"name": lm.name, "fingerprint": fingerprint, "tokenizer": tokenizer, "dtype": dtype}
