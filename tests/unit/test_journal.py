import json

import pytest
from filelock import FileLock

from factlab import journal as journals
from factlab.errors import InvalidRequestError, StorageError
from factlab.journal import Journal, Shard, absent_shards, check_new, merge

REQUEST = {"config": {"samples": 3}, "model": "m"}


@pytest.fixture
def journal(tmp_path):
    return Journal.create(tmp_path / "run", REQUEST, {"cases": [0, 1, 2, 3]})


def test_records_survive(journal):
    with journal.writing(Shard()) as writer:
        writer.append(1, {"x": 0.1})
        writer.append(0, {"x": "é"})
    again = Journal.load(journal.folder)
    assert again.records == {0: {"x": "é"}, 1: {"x": 0.1}} == journal.records
    assert again.request == REQUEST


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_line_cut_short_is_dropped_and_done_again(journal, cut):
    with journal.writing(Shard()) as writer:
        writer.append(0, {"x": 1})
        writer.append(1, {"x": 2})
    path = journal.folder / "records-1-of-1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Journal.load(journal.folder)
    assert set(again.records) == {0}
    with again.writing(Shard()) as writer:
        writer.append(1, {"x": 2})
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(journal):
    path = journal.folder / "records-1-of-1.jsonl"
    path.write_text('{"case": 0, "x": 1}\n{"case": oops}\n')
    with pytest.raises(StorageError, match="Line 2 of"):
        Journal.load(journal.folder)


def test_two_writers_of_one_shard_are_refused(journal):
    lock = FileLock(journal.folder / ".records-1-of-2.lock")
    with (
        lock,
        pytest.raises(StorageError, match="Another process"),
        journal.writing(Shard(1, 2)),
    ):
        pytest.fail("two writers")
    with journal.writing(Shard(1, 2)), Journal.load(journal.folder).writing(Shard(2, 2)):
        pass


def test_another_run_is_named(journal):
    journal.check_request(json.loads(json.dumps(REQUEST)))
    with pytest.raises(StorageError, match=r"its config\.samples is 3, not 4"):
        journal.check_request({"config": {"samples": 4}, "model": "m"})
    with pytest.raises(StorageError, match="its limit is null, not 5"):
        journal.check_request(REQUEST | {"limit": 5})


def test_shards_split_and_merge(journal, tmp_path):
    assert [list(Shard(k, 3).of([4, 5, 6, 7])) for k in (1, 2, 3)] == [[4, 7], [5], [6]]
    other = Journal.create(tmp_path / "other", REQUEST, {"cases": [0, 1, 2, 3]})
    for part, where in ((Shard(1, 2), journal), (Shard(2, 2), other)):
        with where.writing(part) as writer:
            for case in part.of([0, 1, 2, 3]):
                writer.append(case, {"x": case})
    both = tmp_path / "both"
    assert absent_shards([journal.folder]) == [Shard(2, 2)]
    assert len(merge([journal.folder], both).records) == 2
    for _ in range(2):  # parts are added as they come; again changes nothing
        merge([journal.folder, other.folder], both)
        assert Journal.load(both).records == {i: {"x": i} for i in range(4)}
        assert len((both / "records-1-of-1.jsonl").read_text().splitlines()) == 4
    assert absent_shards([journal.folder, other.folder]) == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(StorageError, match="not empty"):
        merge([journal.folder], tmp_path / "notes")
    foreign = Journal.create(tmp_path / "foreign", {"model": "n"}, {})
    with pytest.raises(StorageError, match="belongs to another run"):
        merge([journal.folder, foreign.folder], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0"])
def test_a_shard_out_of_range(text):
    with pytest.raises(InvalidRequestError, match="out of range"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["", "1", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none(text):
    with pytest.raises(InvalidRequestError, match="not understood"):
        Shard.parse(text)


def test_new_folders_are_empty(tmp_path):
    check_new(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        check_new(tmp_path / "file")
    with pytest.raises(StorageError, match="Empty it"):
        check_new(tmp_path)
    with pytest.raises(StorageError, match=r"no run\.json"):
        Journal.load(tmp_path)


def test_of_two_processes_that_begin_one_run_the_first_decides(tmp_path):
    folder = tmp_path / "run"

    def find_slowly():
        Journal.open(folder, {"a": 1}, lambda: {"level": 0.5}, resume=True)
        return {"level": 0.6}

    journal = Journal.open(folder, {"a": 1}, find_slowly, resume=True)
    assert journal.findings == {"level": 0.5}


def test_a_run_may_be_begun_while_it_is_looked_for(tmp_path, monkeypatch):
    """Between the look for it and that for a new folder."""
    check_new_folder = journals.check_new_folder

    def begun_by_another(folder, **options):
        Journal.open(folder, {"a": 1}, lambda: {"n": 0}, resume=False)
        check_new_folder(folder, **options)

    for name, resume, shard in (("one", True, None), ("any", False, Shard.any())):
        with monkeypatch.context() as patched:
            patched.setattr(journals, "check_new_folder", once(begun_by_another, check_new_folder))
            opened = Journal.open(tmp_path / name, {"a": 1}, lambda: {"n": 1}, resume, shard)
        assert opened.findings == {"n": 0}
        with monkeypatch.context() as patched:
            patched.setattr(journals, "check_new_folder", once(begun_by_another, check_new_folder))
            journals.check_run_folder(tmp_path / f"{name} again", resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(journals, "check_new_folder", once(begun_by_another, check_new_folder))
        with pytest.raises(StorageError, match="is not empty"):
            Journal.open(tmp_path / "new", {"a": 1}, lambda: {"n": 1}, resume=False)


def once(first, later):
    """A function that does something else when it is called for the first time."""
    functions = iter([first])

    def called(*args, **options):
        return next(functions, later)(*args, **options)

    return called


def test_a_run_is_begun_anew_only_in_a_new_folder(tmp_path):
    folder = tmp_path / "run"
    Journal.open(folder, {"a": 1}, dict, resume=False)
    with pytest.raises(StorageError, match="not empty"):
        Journal.open(folder, {"a": 1}, dict, resume=False)
    with pytest.raises(StorageError, match="another run"):
        Journal.open(folder, {"a": 2}, dict, resume=True)


def test_what_a_model_is_called_does_not_matter(tmp_path):
    request = {"model": {"name": "here", "fingerprint": "f"}}
    journal = Journal.open(tmp_path / "run", request, dict, resume=False)
    journal.check_request({"model": {"name": "there", "fingerprint": "f"}})
    with pytest.raises(StorageError, match="fingerprint"):
        journal.check_request({"model": {"name": "here", "fingerprint": "g"}})


def test_records_are_not_written_through_a_link(journal, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("precious, and without a line break at its end")
    for name in ("records-1-of-1.jsonl", ".records-1-of-1.lock", "versions.jsonl"):
        link = journal.folder / name
        link.symlink_to(notes)
        with pytest.raises(StorageError, match="is a link"), journal.writing(Shard()):
            pytest.fail("written through a link")
        assert notes.read_text().startswith("precious")
        link.unlink()


@pytest.mark.parametrize("case", ["Infinity", "1.5", '"1"', "null", "[" * 50_000 + "]" * 50_000])
def test_a_case_that_is_no_number_is_named(journal, case):
    path = journal.folder / "records-1-of-1.jsonl"
    path.write_text('{"case": 0}\n{"case": ' + case + "}\n")
    with pytest.raises(StorageError, match=r"Line 2 of .* is damaged"):
        Journal.load(journal.folder)


def test_parts_of_two_sizes_are_not_done_at_once(journal):
    with (
        journal.writing(Shard(1, 2)),
        pytest.raises(StorageError, match=r"doing shard 1/2 .*in common with shard 2/3"),
        Journal.load(journal.folder).writing(Shard(2, 3)),
    ):
        pytest.fail("cases done twice")
    with journal.writing(Shard(2, 3)) as writer:  # afterwards it may
        writer.append(1, {})
    with Journal.load(journal.folder).writing(Shard()) as writer:
        writer.append(0, {})
    assert set(Journal.load(journal.folder).records) == {0, 1}


def test_a_lock_that_is_deleted_ends_the_writing(journal):
    with journal.writing(Shard()) as writer:
        writer.append(0, {})
        (journal.folder / ".records-1-of-1.lock").unlink()
        with pytest.raises(StorageError, match="was deleted while"):
            writer.append(1, {})
        with Journal.load(journal.folder).writing(Shard()) as other:
            other.append(1, {})
            with pytest.raises(StorageError, match="was deleted while"):
                writer.append(2, {})
    assert set(Journal.load(journal.folder).records) == {0, 1}


def test_versions_are_noted_and_do_not_make_another_run(journal, tmp_path):
    old, new = {"torch": "2.13.0"}, {"torch": "2.13.1"}
    for versions in (old, old, new):
        with journal.writing(Shard(), versions) as writer:
            writer.append(len(journal.records), {})
    assert Journal.load(journal.folder).versions == [old, new]
    parts = []
    for versions in (old, new):
        parts.append(tmp_path / versions["torch"])
        Journal.create(parts[-1], REQUEST, {"cases": [0], "versions": versions})
    merged = merge(parts, tmp_path / "all")
    assert merged.versions == [old, new] == Journal.load(tmp_path / "all").versions
    other = Journal.create(tmp_path / "other", REQUEST, {"cases": [1], "versions": new})
    with pytest.raises(StorageError, match=r"worked out different things .* its cases is"):
        merge([parts[0], other.folder], tmp_path / "none")


def test_what_json_lacks_is_not_appended(journal):
    with journal.writing(Shard()) as writer:
        for value in (float("nan"), "\ud800"):
            with pytest.raises(StorageError, match="Cannot write"):
                writer.append(0, {"x": value})
    assert not Journal.load(journal.folder).records
