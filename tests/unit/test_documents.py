"""Whatever stands in a JSON or TOML file, what is wrong with it is one sentence."""

import json

import pytest
import torch
from pydantic import BaseModel, ConfigDict

import factlab as fl
from factlab.documents import check_format, check_version, parse_json, parse_toml, validated
from factlab.errors import StorageError
from factlab.storage import read_json, read_tensors, read_text, write_json, write_tensors

DEEP = '{"a":' + "[" * 50_000 + "]" * 50_000 + "}"


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int
    name: str = ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested too deeply"),
        ('{"x": NaN}', "NaN is no number in JSON"),
        ('{"x": [-Infinity]}', "-Infinity is no number in JSON"),
        ('{"x": 1e999}', "the number 1e999 is too large"),
        ('{"x": ' + "9" * 5000 + "}", "not valid JSON"),
        (r'{"x": "a\ud800b"}', r"not Unicode, with half of a surrogate pair .\\ud800"),
        (r'{"\uDFFF": 1}', "not Unicode"),
        (b'{"x": "\xff"}', "not valid JSON"),
        (b'{"x": "\xed\xa0\x80"}', "not valid JSON"),  # half of a pair, as some programs write it
        ('{"x": "y"}'.encode("utf-16"), "not valid JSON"),
        ("{", "not valid JSON"),
    ],
)
def test_json_that_cannot_be_used_is_refused(text, said):
    with pytest.raises(StorageError, match=f"^The text .*{said}"):
        parse_json(text, "The text")


def test_other_json_is_read():
    text = r'{"a": "\ud83d\ude00 \\ud800", "b": [1, 2.5e300, null, true], "c": "é"}'
    assert parse_json(text, "The text") == json.loads(text)
    assert parse_json(text.encode(), "The text") == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf" + text.encode(), "The text") == json.loads(text)
    assert str(parse_json("[NaN]", "The text", finite=False)) == "[nan]"


def test_toml_that_cannot_be_used_is_refused():
    for text, said in (
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a", "not valid TOML"),
    ):
        with pytest.raises(StorageError, match=f"^The text .*{said}"):
            parse_toml(text, "The text")
    assert parse_toml("a = 1", "The text") == {"a": 1}


def test_what_a_newer_version_wrote_is_called_so():
    with pytest.raises(StorageError, match=r"^'x' was written by a newer factlab .*'age'.*Upgrade"):
        validated(Document, {"number": 1, "age": 2}, "'x'", "Delete it.")
    with pytest.raises(StorageError, match=r"^'x' is damaged: number: .*\. Delete it\.$"):
        validated(Document, {"number": "one", "age": 2}, "'x'", "Delete it.")
    assert validated(Document, {"number": 1}, "'x'", "Delete it.") == Document(number=1)
    check_version(1, 2, "'x'", "Delete it.")
    with pytest.raises(StorageError, match=r"newer factlab .*schema version is 3"):
        check_version(3, 2, "'x'", "Delete it.")
    for wrong in (0, None, "2", True):
        with pytest.raises(StorageError, match="is damaged: its schema version"):
            check_version(wrong, 2, "'x'", "Delete it.")
    check_format("factlab trace 1", "factlab trace 1", "'x'", "a trace")
    with pytest.raises(StorageError, match=r"newer factlab .*'factlab trace 2'"):
        check_format("factlab trace 2", "factlab trace 1", "'x'", "a trace")
    for other in ("factlab edit 2", "factlab trace 0", None, 3):
        with pytest.raises(StorageError, match=r"^'x' is not a trace: "):
            check_format(other, "factlab trace 1", "'x'", "a trace")


@pytest.mark.parametrize("name", ["edit.json", "editor.json", "run.json", "adapter_config.json"])
def test_every_folder_says_that_it_is_nested_too_deeply(make_model, tmp_path, name):
    (tmp_path / name).write_text(DEEP)
    (tmp_path / "adapter_model.safetensors").touch()
    lm = make_model("gpt2")
    read = {
        "edit.json": fl.Edit.load,
        "editor.json": fl.editing.load_editor,
        "run.json": fl.evaluation.load_run,
        "adapter_config.json": lambda folder: fl.Edit.from_peft(folder, lm),
    }
    with pytest.raises(StorageError, match=f"{name}' is nested too deeply"):
        read[name](tmp_path)


def test_what_json_lacks_is_not_written(tmp_path):
    path = tmp_path / "x.json"
    for value, said in ((float("nan"), "NaN or an infinite"), ("\ud800", "half of a surrogate")):
        with pytest.raises(StorageError, match=f"Cannot write .*{said}"):
            write_json(path, {"x": value})
    assert not list(tmp_path.iterdir())
    write_json(path, {"x": "é"})
    assert read_json(path) == {"x": "é"}
    assert read_text(path).startswith("{")


def test_files_get_the_rights_that_the_user_gives(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode == plain.stat().st_mode


def test_tensors_and_metadata_are_the_same_bytes_each_time(tmp_path):
    metadata = {f"key {i}": f"„{i}“ \n\t" for i in range(9)}
    tensors = {name: torch.arange(6.0).view(2, 3) for name in "bca"}
    written = set()
    for i in range(6):
        write_tensors(tmp_path / f"{i}.safetensors", tensors, metadata)
        written.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(written) == 1
    read, again = read_tensors(tmp_path / "0.safetensors")
    assert again == metadata
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
