"""`factlab report` on runs that were written by hand."""

import json

import pytest

from saved_rows import BROAD, GOOD, make_row, save_run


@pytest.fixture
def folders(tmp_path):
    return [
        save_run(tmp_path / name, [make_row(i, won, name) for i in range(6)], method=name)
        for name, won in (("rome", GOOD), ("ft", BROAD))
    ]


def test_a_table_for_the_terminal(run, folders):
    code, out, err = run("report", *folders, "--against", "rome", "--published", "--case", 3)
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "n S ES EM PS PM NS NM GE RS" in lines
    assert any(line.startswith("ft 6 0.0 (0–66)* 100.0 (61–100) 40.0 ±0.0") for line in lines)
    assert any(line.startswith("GPT-J: ROME (paper) 2000 91.5 99.9 ±0.1") for line in lines)
    assert "Case 3: S3 is in Rome (was: Paris)" in lines
    assert "ft S3 by ft | is in Rome." in lines
    assert lines.index("rome S3 by rome | is in Rome.") > lines.index("unedited S3 is as it was.")


def test_no_number_is_cut_on_a_narrow_terminal(run, folders, monkeypatch):
    wide = run("report", *folders)[1]
    from factlab.cli.report import _fitting

    lines = [["unedited", "40", "22.8 ±9.5", "17.5 ±11.9"], ["rome", "", "", ""]]
    assert _fitting(lines, 200) == [[0, 1, 2, 3]]
    assert _fitting(lines, 30) == [[0, 1, 2], [0, 3]]
    assert _fitting(lines, 5) == [[0, 1], [0, 2], [0, 3]]
    assert "…" not in wide


def test_documents(run, folders):
    code, out, _ = run("report", *folders, "--json", "--timings")
    document = json.loads(out)
    assert code == 0
    rows = document["tables"][0]["rows"]
    assert [row["label"] for row in rows] == ["unedited", "rome", "ft"]
    assert rows[2]["metrics"]["neighborhood_success"]["mean"] == 0
    assert rows[2]["seconds"]["s_per_edit"]["mean"] == 4
    code, out, _ = run("report", *folders, "--markdown", "--exact")
    assert code == 0
    assert "| EX | PX | NX |" in out
    code, out, _ = run("report", *folders, "--csv", "--form", "product")
    assert code == 0
    assert out.startswith("model,data,benchmark,row,")


def test_files(run, folders, tmp_path):
    code, out, _ = run(
        "report", *folders, "--out", tmp_path / "out", "--label", "A", "--label", "B"
    )
    assert code == 0
    assert "report.md, report.csv, report.json, scores.png" in out
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["label"] for row in document["tables"][0]["rows"]] == ["unedited", "A", "B"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--form", "produkt"], "--form cannot be 'produkt'. Choose mean or product. Did you"),
        (["--json", "--csv"], "--json, --markdown and --csv exclude each other"),
        (["--case", "99"], "No run has measured case 99 yet"),
        (["--against", "roma"], "Did you mean 'rome'?"),
        (["--label", "A"], "1 label for 2 runs"),
    ],
)
def test_what_cannot_be(run, folders, options, message):
    code, _, err = run("report", *folders, *options)
    assert code == 2
    assert message in err


def test_a_folder_without_a_run(run, tmp_path):
    code, _, err = run("report", tmp_path)
    assert code == 2
    assert "holds no run" in err
