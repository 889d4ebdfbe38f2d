"""Edits on the Hugging Face Hub: three files go there, two come back, and nothing in them is run.

A saved edit (`document`) is JSON and safetensors; a model card says to people what it is. All that
is loaded is checked like a folder on this machine. Tokens are huggingface_hub's affair: what it
finds by itself, or is given for one call, is sent to the Hub and written nowhere.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from factlab.editing.shipping.folders import JSON, TENSORS, check_saved_edit
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.models.hub import first_line
from factlab.models.quiet import quiet_transformers

CARD = "README.md"
# What may be in a repository beside an edit's files without being somebody's work.
_BESIDE = {".gitattributes", "LICENSE", "LICENSE.md", CARD}
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]{0,95}", re.ASCII)
_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class PushedEdit:
    """Where an edit was pushed to.

    Attributes:
        repo: user and name.
        commit: that it is in; `Edit.load(repo, revision=commit)` is this edit for ever.
    """

    repo: str
    commit: str


def is_hub_name(name: str) -> bool:
    """Whether a text can name a repository of somebody's on the Hub, such as `user/repo`."""
    return _NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


def edit_place(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a saved edit: one on this machine, or what the Hub has under the name.

    Args:
        name: of a folder, or, if it is a text and there is no such folder, `user/repo`.
        revision: branch, tag or commit on the Hub; only the Hub is asked then.

    Raises:
        StorageError: there is no edit of that name here or on the Hub, or the Hub was not reached.
        InvalidRequestError: a revision of what cannot be on the Hub.
    """
    on_hub = isinstance(name, str) and is_hub_name(name)
    if revision is not None and not on_hub:
        raise InvalidRequestError(
            f"'{name}' cannot have a revision '{revision}': only edits on the Hub have, which are "
            "named like user/repo."
        )
    if not on_hub or (revision is None and Path(name).exists()):
        check_saved_edit(Path(name))
        return Path(name)
    return _fetched(str(name), revision)


def _fetched(name: str, revision: str | None) -> Path:
    """The files of an edit in the Hub's cache on this machine, brought there if need be."""
    api = HfApi()
    try:
        info = api.model_info(name, revision=revision, timeout=_WAIT_S)
    except RevisionNotFoundError as error:
        raise StorageError(
            f"The edit '{name}' on the Hugging Face Hub has no revision '{revision}'. Give a "
            "branch, tag or commit that it has."
        ) from error
    except HFValidationError as error:
        raise StorageError(
            f"Cannot load the edit '{name}': there is no such folder here, and it is no name on "
            f"the Hugging Face Hub ({first_line(error)})."
        ) from error
    except HfHubHTTPError as error:
        raise _not_given(name, error) from error
    except Exception as error:  # whatever the HTTP library of the day raises without a network
        kept = [try_to_load_from_cache(name, file, revision=revision) for file in (JSON, TENSORS)]
        if all(isinstance(path, str) for path in kept):
            return Path(str(kept[0])).parent
        raise StorageError(
            f"Cannot load the edit '{name}': it is neither a folder here nor in the Hub's cache, "
            f"and the Hugging Face Hub was not reached ({first_line(error)}). Check the name and "
            "the network."
        ) from error
    _check_is_edit(name, _names(info))
    with _explained(f"Cannot load the edit '{name}'"), quiet_transformers():
        # By the revision's name, so that the cache knows what it stands for without a network.
        paths = [api.hf_hub_download(name, file, revision=revision) for file in (JSON, TENSORS)]
    folder, other = (Path(path).parent for path in paths)
    if folder != other:
        raise StorageError(
            f"The edit '{name}' was replaced on the Hugging Face Hub while it was loaded. Load it "
            "again."
        )
    return folder


def _not_given(name: str, error: HfHubHTTPError) -> StorageError:
    if isinstance(error, RepositoryNotFoundError):
        return StorageError(
            f"There is no edit '{name}': no folder here has that name, and the Hugging Face Hub "
            "has no such repository that you may read. Check the name; for a private one, log in "
            "with 'hf auth login'."
        )
    return StorageError(
        f"Cannot load the edit '{name}': the Hugging Face Hub would not give it "
        f"({first_line(error)}). Try again later."
    )


def _names(info: Any) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


def _check_is_edit(name: str, names: set[str]) -> None:
    missing = [file for file in (JSON, TENSORS) if file not in names]
    if not missing:
        return
    instead = ""
    if "adapter_config.json" in names:
        instead = " It holds a LoRA adapter, for Edit.from_peft."
    elif "config.json" in names:
        instead = " It holds a model, for fl.load and --model."
    raise StorageError(
        f"'{name}' on the Hugging Face Hub is not a saved edit: it has no {missing[0]}.{instead} "
        "Pass the name of one that 'factlab push' made."
    )


def check_pushable(repo: str) -> None:
    """Refuse a name under which nothing can be pushed.

    Raises:
        InvalidRequestError: it is not like `user/repo`.
    """
    if not is_hub_name(repo):
        raise InvalidRequestError(
            f"'{repo}' is no name on the Hugging Face Hub. Give your user or organisation and a "
            "name of letters, digits, '-', '_' and '.', such as user/eiffel-in-rome."
        )


def push(
    folder: Path,
    card: str,
    repo: str,
    private: bool | None,
    token: str | None,
    message: str,
    overwrite: bool,
) -> PushedEdit:
    """Put a saved edit and its card into a repository on the Hub, in one commit.

    Args:
        folder: of the edit.
        card: its model card, Markdown.
        repo: user and name; made if it is not there.
        private: whether only those see it whom the owner lets; None leaves it to the account.
        token: for this call; by default the one that huggingface_hub finds.
        message: of the commit.
        overwrite: an edit that is there may be replaced.

    Raises:
        InvalidRequestError: the name is none.
        StorageError: the Hub refused or was not reached; or the repository holds an edit and
            `overwrite` is not set, holds something else, or is public and was to be private.
    """
    check_pushable(repo)
    with _explained(f"Cannot push to '{repo}'"), quiet_transformers():
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.model_info(repo, timeout=_WAIT_S)
        _check_replaceable(repo, _names(info), overwrite)
        if private and not info.private:
            raise StorageError(
                f"'{repo}' is there already and public; nothing was pushed. Choose another name, "
                "or make it private on the Hub first."
            )
        done = api.create_commit(
            repo,
            [
                CommitOperationAdd(JSON, str(folder / JSON)),
                CommitOperationAdd(TENSORS, str(folder / TENSORS)),
                CommitOperationAdd(CARD, card.encode()),
            ],
            commit_message=message,
            parent_commit=info.sha,  # nobody has pushed anything since it was looked at
        )
    return PushedEdit(repo, str(done.oid))


def _check_replaceable(repo: str, names: Iterable[str], overwrite: bool) -> None:
    others = sorted({*names} - {JSON, TENSORS} - _BESIDE)
    if others:
        raise StorageError(
            f"'{repo}' holds something other than a saved edit ('{others[0]}'); nothing was "
            "pushed. Choose another name."
        )
    if JSON in names and not overwrite:
        raise StorageError(
            f"'{repo}' holds a saved edit already; nothing was pushed. Choose another name, or "
            "replace it with overwrite=True (--overwrite on the command line)."
        )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one sentence."""
    try:
        yield
    except FactlabError:
        raise
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = (
            "Log in with 'hf auth login', with a token that may write there."
            if status in {401, 403}
            else "Check the name, or try again later."
        )
        raise StorageError(
            f"{what}: the Hugging Face Hub refused ({first_line(error)}). {advice}"
        ) from error
    except Exception as error:  # whatever the HTTP library of the day raises without a network
        raise StorageError(
            f"{what}: the Hugging Face Hub was not reached, or broke off ({first_line(error)}). "
            "Check the network."
        ) from error
