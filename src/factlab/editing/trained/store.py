"""A trained editor on disk, and the checkpoint that a training goes on from.

    folder/
      editor.json              what it is, which model it is for, how it was trained
      subjects.json            hashes of the subjects of training and validation
      weights-….safetensors    the network; named by its digest
      checkpoint.safetensors   state of the training: weights, optimiser, where it is

`editor.json` names the weights it belongs to and is written after them, so that the two always
match, whenever a process is killed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from factlab.documents import check_version, described, newer, parse_json, validated
from factlab.editing.edit import BaseModelInfo
from factlab.editing.shipping.folders import EDITOR_JSON, check_saved_editor
from factlab.editing.trained.configs import (
    KINDS,
    DataKind,
    NetworkConfig,
)
from factlab.editing.trained.editor import TrainedEditor, new_network
from factlab.editing.trained.gradients import Matrix
from factlab.editing.trained.network import EditorNetwork
from factlab.errors import StorageError
from factlab.storage import read_json, read_tensors, tensor_infos, write_json, write_tensors

_SCHEMA = 1
_SUBJECTS, _CHECKPOINT = "subjects.json", "checkpoint.safetensors"
_ADVICE = "Train the editor again."


class _EditorFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: int = _SCHEMA
    kind: str
    data: DataKind
    base: BaseModelInfo
    config: dict[str, Any]
    d_embedding: int
    matrices: list[Matrix]
    weights: str = Field(pattern=r"^weights-[0-9a-f]{16}\.safetensors$")
    subjects_sha256: str
    training: dict[str, Any]
    versions: dict[str, str]


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights and running statistics."""
    return _digest(network.state_dict())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().double().contiguous().numpy().data)
    return digest.hexdigest()


def write_editor(editor: TrainedEditor, folder: Path, d_embedding: int) -> None:
    """Write an editor into a folder; one that is there already is replaced.

    Raises:
        StorageError: the folder cannot be written.
    """
    subjects = sorted(editor.subjects)
    write_json(folder / _SUBJECTS, {"sha256": _hash_of(subjects), "subjects": subjects})
    weights = f"weights-{editor.digest[:16]}.safetensors"
    write_tensors(folder / weights, editor.network.state_dict())
    file = _EditorFile(
        kind=editor.kind,
        data=editor.data,
        base=editor.base,
        config=editor.config.model_dump(mode="json"),
        d_embedding=d_embedding,
        matrices=list(editor.network.matrices),
        weights=weights,
        subjects_sha256=_hash_of(subjects),
        training=editor.training,
        versions=editor.versions,
    )
    write_json(folder / EDITOR_JSON, file.model_dump(mode="json"))
    for other in folder.glob("weights-*.safetensors"):
        if other.name != weights:
            other.unlink(missing_ok=True)


def load_editor(folder: str | Path) -> TrainedEditor:
    """Read what `factlab train` wrote.

    Raises:
        StorageError: the folder holds no editor, is damaged, or is of a newer schema.
    """
    folder = Path(folder)
    check_saved_editor(folder)
    path = folder / EDITOR_JSON
    data = read_json(path)
    check_version(data.get("schema_version"), _SCHEMA, f"'{path}'", _ADVICE)
    file = validated(_EditorFile, data, f"'{path}'", _ADVICE)
    if file.kind not in KINDS:
        raise newer(f"'{path}'", f"it is of a {file.kind.upper()}")
    config = validated(KINDS[file.kind], file.config, f"The config in '{path}'", _ADVICE)
    try:
        network = _network(file, config, folder / file.weights)
        subjects = read_json(folder / _SUBJECTS)["subjects"]
        if not isinstance(subjects, list) or _hash_of(subjects) != file.subjects_sha256:
            raise ValueError(f"{_SUBJECTS} is not the list that the editor was trained with")
    except (ArithmeticError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        if isinstance(error, StorageError) and "Cannot read" not in str(error):
            raise
        raise StorageError(
            f"The editor in '{folder}' is damaged: {described(error)}. {_ADVICE}"
        ) from error
    network.eval()
    return TrainedEditor(
        file.data, file.base, config, network, frozenset(map(str, subjects)), file.training,
        file.versions, weights_digest(network),
    )  # fmt: skip


def _network(file: _EditorFile, config: NetworkConfig, path: Path) -> EditorNetwork:
    """The network with its weights; ValueError or RuntimeError if they do not go together.

    How large it is is first worked out without memory, and compared with the header of the file:
    a few letters in a damaged `editor.json` must not fill the machine.
    """
    shapes = {name: info.shape for name, info in tensor_infos(path).items()}
    # No size may be larger than the largest in the file, where all of them are found.
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    sizes = [n for matrix in file.matrices for n in (matrix.d_in, matrix.d_out)]
    sizes += config.widths(file.d_embedding)
    if not all(1 <= size <= largest for size in sizes):
        raise ValueError(f"the weights in {path.name} are not those of such a network")
    with torch.device("meta"):
        expected = new_network(file.matrices, file.d_embedding, config).state_dict()
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise ValueError(f"the weights in {path.name} are not those of such a network")
    network = new_network(file.matrices, file.d_embedding, config)
    _fill(network, read_tensors(path)[0])
    if weights_digest(network)[:16] != path.stem.removeprefix("weights-"):
        raise ValueError(f"{path.name} has other weights than its name says")
    return network


def write_checkpoint(
    folder: Path, network: nn.Module, optimiser: torch.optim.Adam, where: Mapping[str, Any]
) -> None:
    """Write the state of a training, in one file.

    Args:
        folder: of the training.
        network: as it is.
        optimiser: of its parameters.
        where: how far the training is, as JSON.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    # One entry: safetensors writes several in an order that changes from time to time.
    digest = _checkpoint_digest(tensors, where)
    document = json.dumps({**where, "sha256": digest}, allow_nan=False)
    write_tensors(folder / _CHECKPOINT, tensors, {"where": document})


def read_checkpoint(
    folder: Path, network: nn.Module, optimiser: torch.optim.Adam
) -> dict[str, Any] | None:
    """Put network and optimiser into the state of a checkpoint.

    Returns:
        How far the training was; None if there is no checkpoint.

    Raises:
        StorageError: it is damaged, or of another network.
    """
    path = folder / _CHECKPOINT
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
        where = parse_json(metadata["where"], "its place")
        if not isinstance(where, dict):
            raise TypeError("it does not say how far it is")
        # Those of factlab 0.1.0 have no digest.
        if where.pop("sha256", None) not in (None, _checkpoint_digest(tensors, where)):
            raise ValueError("its numbers are not those that were written")
        own = {n[8:]: t for n, t in tensors.items() if n.startswith("network.")}
        _fill(network, own)
        if where.get("step") != 0:
            for name, parameter in network.named_parameters():
                optimiser.state[parameter] = _adam_state(tensors, name, parameter)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise StorageError(
            f"The checkpoint '{path}' is damaged: {described(error)}. Delete it to "
            "train from the beginning, or use another folder."
        ) from error
    return where


def _checkpoint_digest(tensors: Mapping[str, Tensor], where: Mapping[str, Any]) -> str:
    document = json.dumps(dict(where), allow_nan=False)
    return hashlib.sha256(f"{_digest(tensors)} {document}".encode()).hexdigest()


def _adam_state(
    tensors: Mapping[str, Tensor], name: str, parameter: nn.Parameter
) -> dict[str, Tensor]:
    state = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    for key, value in state.items():
        if value.shape != (() if key == "step" else parameter.shape) or not value.isfinite().all():
            raise ValueError(f"Adam's {key} of {name} has another shape, or is not a number")
    # The count stays on the CPU, where Adam puts it.
    return {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights; ValueError if names or shapes differ or one is not a number."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite entries")
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:  # torch lists every weight
        raise ValueError("its weights are not those of such a network") from error


def _hash_of(subjects: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(map(str, subjects)).encode()).hexdigest()
