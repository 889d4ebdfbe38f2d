"""A saved edit is the one that was saved, whatever happens to its folder or to the process."""

import json
import os
import shutil
import signal
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_edit import make_edit

import factlab as fl
from factlab.editing.shipping.folders import check_destination
from factlab.errors import StorageError


@pytest.fixture
def lm(make_model):
    return make_model("gpt2")


@pytest.fixture
def folder(lm, tmp_path):
    make_edit(lm, 0, 0, 1).save(tmp_path / "e")
    return tmp_path / "e"


def change_json(folder, change) -> None:
    document = json.loads((folder / "edit.json").read_text())
    change(document)
    (folder / "edit.json").write_text(json.dumps(document))


def flip_a_bit(folder) -> None:
    path = folder / "edit.safetensors"
    data = bytearray(path.read_bytes())
    data[8 + struct.unpack("<Q", data[:8])[0] + 3] ^= 2
    path.write_bytes(bytes(data))


def relabel(folder) -> None:
    path = folder / "edit.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))


def of_another_type(folder) -> None:
    path = folder / "edit.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"0.left": tensors["0.left"].to(torch.float8_e4m3fn)}, path)


def drop_an_update(folder) -> None:
    change_json(folder, lambda document: document["updates"].pop())


def move_an_update(folder) -> None:
    change_json(
        folder, lambda document: document["updates"][0].update(weight_name="transformer.h.2.mlp")
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "is not the one that edit.json describes"),
        (relabel, "is of torch.int32, not of floats"),
        (of_another_type, "is of torch.float8_e4m3fn, not of floats"),
        (drop_an_update, "holds 4 tensors, and edit.json lists 2"),
        (move_an_update, "is not the one that edit.json describes"),
    ],
)
def test_what_was_changed_is_noticed(folder, damage, said):
    damage(folder)
    with pytest.raises(StorageError, match=f"is damaged: .*{said}. Make the edit again"):
        fl.Edit.load(folder)


def test_the_numbers_of_another_edit_are_noticed(lm, folder, tmp_path):
    make_edit(lm, 1, 0, 1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "edit.safetensors", folder)
    with pytest.raises(StorageError, match=r"is not the one that edit.json describes"):
        fl.Edit.load(folder)


def test_equal_edits_are_equal(lm, folder):
    edit, again = make_edit(lm, 0, 0, 1), fl.Edit.load(folder)
    assert edit == again
    assert len({edit, again}) == 1
    assert edit != make_edit(lm, 1, 0, 1)
    assert edit != make_edit(lm, 0, 0, 2)
    assert edit != "an edit"


def test_edits_of_newer_versions_are_named(folder):
    change_json(folder, lambda document: document.update(schema_version=6))
    with pytest.raises(StorageError, match=r"newer factlab .*schema version is 6.* Upgrade"):
        fl.Edit.load(folder)
    change_json(folder, lambda document: document.update(schema_version=4, author="x"))
    with pytest.raises(StorageError, match=r"newer factlab .*it has an entry 'author'.* Upgrade"):
        fl.Edit.load(folder)
    change_json(folder, lambda document: document.update(schema_version="x"))
    with pytest.raises(StorageError, match="is damaged: its schema version is 'x'"):
        fl.Edit.load(folder)


def test_edits_are_replaced_only_if_asked_for(lm, folder):
    other = make_edit(lm, 1)
    with pytest.raises(StorageError, match=r"holds a saved edit already.*overwrite=True"):
        other.save(folder)
    assert fl.Edit.load(folder) == make_edit(lm, 0, 0, 1)
    other.save(folder, overwrite=True)
    assert fl.Edit.load(folder) == other
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="something other than a saved edit"):
        other.save(folder, overwrite=True)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_kill_while_replacing_leaves_one_of_both(lm, tmp_path):
    old, new = make_edit(lm, 0), make_edit(lm, 1)
    left = []
    for at in range(1, 60):
        folder = tmp_path / str(at)
        old.save(folder)
        child = os.fork()
        if child == 0:
            killed_at(at)
            new.save(folder, overwrite=True)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left.append(fl.Edit.load(folder))
        assert left[-1] in (old, new)
        new.save(folder, overwrite=True)
        assert fl.Edit.load(folder) == new
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert left[-1] == new
    assert old in left[:-1]
    assert new in left[:-1]


def killed_at(number: int) -> None:
    """Let this process be killed before it changes a file for the time of this number."""
    done = 0

    def audit(event: str, args: tuple) -> None:
        nonlocal done
        writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
        if writes or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"):
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def test_a_link_to_a_folder_is_followed(lm, folder, tmp_path):
    (tmp_path / "real").mkdir()
    for name, place in (("empty", tmp_path / "real"), ("full", folder)):
        link = tmp_path / name
        link.symlink_to(place)
        edit = make_edit(lm, 5)
        edit.save(link, overwrite=True)
        assert link.is_symlink()
        assert fl.Edit.load(place) == edit == fl.Edit.load(link)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["a" * 250, "é" * 120])
def test_long_names_are_written(lm, tmp_path, name):
    make_edit(lm, 0).save(tmp_path / name)
    assert fl.Edit.load(tmp_path / name) == make_edit(lm, 0)


@pytest.mark.parametrize("name", ["a" * 300, "x/" + "b" * 300, "nul\0"])
def test_impossible_names_are_refused_before_the_work(tmp_path, name):
    with pytest.raises(StorageError, match="Cannot write"):
        check_destination(tmp_path / name)
