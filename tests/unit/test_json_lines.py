"""Values are read one by one, from files that may have been made to fill the machine."""

import gzip
import json

import pytest

import factlab as fl
from factlab.data.json_lines import read_values
from factlab.errors import StorageError


def packed(path, head: bytes, unit: bytes, count: int):
    with gzip.open(path, "wb", 9) as file:
        file.write(head)
        for _ in range(count):
            file.write(unit)
    return path


@pytest.mark.parametrize(
    ("name", "head", "unit", "count", "said"),
    [
        ("newlines.jsonl.gz", b"", b"\n" * (1 << 20), 200, "unpacks to more than 200 times"),
        ("array.json.gz", b"[[", b"0," * (1 << 19), 34, "begins a value of more than 32 million"),
        ("string.json.gz", b'["', b"A" * (1 << 20), 34, "begins a value of more than 32 million"),
    ],
)
def test_packed_files_that_fill_the_machine_are_refused(tmp_path, name, head, unit, count, said):
    path = packed(tmp_path / name, head, unit, count)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(StorageError, match=said):
        fl.load_records(path)
    with pytest.raises(StorageError, match=said):
        fl.data.load_references(path)


def test_text_that_packs_well_is_read(tmp_path):
    rows = [{"text": f"{i} The Eiffel Tower is in Paris. " * 30} for i in range(3000)]
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.writelines("\n \t" + json.dumps(row) + "\n" for row in rows)
    assert [value for _, value in read_values(tmp_path / "x.jsonl.gz")] == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": "Ro\\ud800me"}', "Line 1 of .* not Unicode"),
        ('{"a": "\\ud83d\\ude00"}\n{"a": "\\uDFFF"}', "Line 2 of .* not Unicode"),
        ("[" * 100_000, "Line 1 of .* nested too deeply"),
    ],
)
def test_values_that_cannot_be_used_are_named_by_their_line(tmp_path, text, said):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(StorageError, match=said):
        list(read_values(path))
