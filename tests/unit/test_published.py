import hashlib
import socket
from contextlib import contextmanager
from dataclasses import replace

import pytest
from local_web import serving

from factlab.data import published
from factlab.data.published import PUBLISHED, PublishedFile, fetched, published_file
from factlab.data.record_files import load_records
from factlab.errors import InvalidRequestError, StorageError

BODY = b'[{"case_id": 0}]\n'
SHA = hashlib.sha256(BODY).hexdigest()


@contextmanager
def server(body=BODY, status=200, promised=None):
    """The address of a file, and the list of requests for it."""
    asked = []

    def reply(path, headers):
        asked.append(path)
        return status, {"Content-Length": str(promised or len(body))}, body

    with serving(reply) as address:
        yield f"{address}/dsets/x.json", asked


def test_a_file_is_downloaded_once():
    steps = []
    with server() as (url, asked):
        file = PublishedFile(url, "a file", len(BODY), SHA)
        path = fetched(file, lambda *step: steps.append(step))
        assert path.read_bytes() == BODY
        assert fetched(file) == path == file.path
    assert len(asked) == 1
    assert fetched(file) == path  # without the server
    assert steps == [("downloading x.json", len(BODY), len(BODY))]
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_file_of_unknown_hash_is_pinned_on_first_use():
    with server() as (url, _):
        file = PublishedFile(url, "a file")
        path = fetched(file)
    assert fetched(file) == path
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.json", "x.json.pin.json"]
    path.write_bytes(BODY.upper())
    with pytest.raises(StorageError, match=f"its sha256 is .*, not {SHA}. Delete '.*x.json'"):
        fetched(file)
    path.with_name("x.json.pin.json").write_text("{}")
    with pytest.raises(StorageError, match=r"pin\.json' is damaged: it lacks size or sha256"):
        fetched(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 3}, "What was downloaded is not what was expected of http.*its size in bytes is 17, not 3"),
        ({"sha256": "0" * 64}, f"its sha256 is {SHA}, not 000"),
    ],
)  # fmt: skip
def test_something_else_is_not_kept(change, reason):
    with server() as (url, _):
        file = replace(PublishedFile(url, "a file", len(BODY), SHA), **change)
        with pytest.raises(StorageError, match=reason):
            fetched(file)
    assert not list(file.path.parent.iterdir())


def test_a_file_in_the_cache_that_is_something_else():
    file = PublishedFile("http://127.0.0.1:1/x.json", "a file", len(BODY), SHA)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"other")
    with pytest.raises(StorageError, match=r"x\.json' is not what was expected.*5, not 17. Delete"):
        fetched(file)
    file.path.write_bytes(BODY)  # put there by hand
    assert fetched(file) == file.path


def test_a_broken_download_is_not_kept():
    with server(promised=100) as (url, _):
        file = PublishedFile(url, "a file")
        with pytest.raises(
            StorageError, match=r"Cannot download.* (17 of 100 bytes|IncompleteRead)"
        ):
            fetched(file)
    with server(status=404) as (url, _):
        file = PublishedFile(url, "a file")
        with pytest.raises(StorageError, match=r"Cannot download '.*x\.json': Not Found"):
            fetched(file)
    assert not list(file.path.parent.iterdir())


def test_offline_says_what_to_do(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    file = PublishedFile(f"http://127.0.0.1:{port}/counterfact.json", "a file")
    monkeypatch.setitem(published.PUBLISHED, "counterfact", file)
    with pytest.raises(StorageError) as caught:
        load_records("counterfact")
    assert caught.match(f"Cannot download '{file.url}': .*refused")
    assert caught.match(f"by hand and put it at '{file.path}'")


def test_only_the_web_is_downloaded():
    with pytest.raises(StorageError, match="only http and https"):
        fetched(PublishedFile("file:///etc/hostname", "a file"))


def test_names():
    with pytest.raises(InvalidRequestError, match=r"'zrse'\. There are: counterfact.*'zsre'\?"):
        published_file("zrse")
    for file in PUBLISHED.values():
        assert file.url.startswith("https://")
        assert file.sha256 is None or (len(file.sha256) == 64 and file.size)


def test_a_published_name_is_downloaded_and_read(monkeypatch):
    body = (
        b'[{"subject": "S", "src": "Where is S?", "rephrase": "S is where?", "answers": ["Rome"],'
        b' "loc": "nq question: who", "loc_ans": "me"}]'
    )
    with server(body) as (url, _):
        monkeypatch.setitem(published.PUBLISHED, "zsre", PublishedFile(url, "questions"))
        (record,) = load_records("zsre")
    assert record.fact.target_new == "Rome"
