"""A stand-in for the Hugging Face Hub in the test's own process: what its client asks for."""

import base64
import hashlib
import http.server
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from local_web import served_by


@dataclass
class Repository:
    """One repository, with the files of each commit."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])

    def sha(self, number: int = -1) -> str:
        place = number % len(self.commits)
        said = f"{place} {sorted(self.commits[place].items())}".encode()
        return hashlib.sha256(said).hexdigest()[:40]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.sha(), self.commits[-1]
        shas = [self.sha(number) for number in range(len(self.commits))]
        return (revision, self.commits[shas.index(revision)]) if revision in shas else None


@dataclass
class LocalHub:
    """Repositories by name, what was asked, and by whom.

    Attributes:
        may_write: the token that may; nobody else sees what is private.
        watch: is told each question when it has been answered.
    """

    may_write: str = "hf_of_the_owner"
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    watch: Callable[[str], None] | None = None


@contextmanager
def hub_at(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, cache) -> Iterator[LocalHub]:
    """Let huggingface_hub take the stand-in for the Hub, with a cache of its own and no token."""
    with served_by(_handler(hub)) as hub.address:
        for name, value in {
            "ENDPOINT": hub.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN_PATH": str(cache / "no-token"),
            "HF_STORED_TOKENS_PATH": str(cache / "no-tokens"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def _handler(hub: LocalHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def say(self, value: object, status: int = 200, **headers: str) -> None:
            self.answer(status, json.dumps(value).encode(), **headers)

        def refuse(self, status: int, code: str) -> None:
            self.say({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

        @property
        def is_owner(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.may_write}"

        def found(self, name: str) -> Repository | None:
            there = hub.repositories.get(name)
            return None if there is None or (there.private and not self.is_owner) else there

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if info := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self.tell(info[1], info[2] or "main")
            elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.give(*file.groups())
            else:
                self.refuse(404, "EntryNotFound")
            if hub.watch is not None:
                hub.watch(hub.asked[-1])

        def do_HEAD(self) -> None:
            self.do_GET()

        def tell(self, name: str, revision: str) -> None:
            there = self.found(name)
            if there is None:
                self.refuse(401, "RepoNotFound")
            elif (commit := there.at(revision)) is None:
                self.refuse(404, "RevisionNotFound")
            else:
                files = [{"rfilename": file} for file in commit[1]]
                self.say(
                    {"id": name, "sha": commit[0], "private": there.private, "siblings": files}
                )

        def give(self, name: str, revision: str, file: str) -> None:
            there = self.found(name)
            commit = there and there.at(revision)
            if not commit or file not in commit[1]:
                self.refuse(404, "EntryNotFound")
                return
            etag = hashlib.sha256(commit[1][file]).hexdigest()
            self.answer(200, commit[1][file], ETag=f'"{etag}"', X_Repo_Commit=commit[0])

        def body(self) -> bytes:
            """What was sent, whole or in chunks whose lengths stand before them."""
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while length := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_PUT(self) -> None:
            body = self.body()
            hub.sent.append(body)
            hub.large[self.path.rpartition("/")[2]] = body
            self.answer(200, ETag='"x"')

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"POST {path}")
            body = self.body()
            hub.sent.append(body)
            if path == "/api/validate-yaml":
                self.say({"errors": [], "warnings": []})
            elif not self.is_owner:
                self.refuse(401, "Invalid username or password.")
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif batch := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                self.say(self.where_to_put(json.loads(body)))
            elif asked := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
                there = hub.repositories[asked[1]]
                if asked[2] == "preupload":
                    self.say(self.ways(json.loads(body)))
                else:
                    self.commit(asked[1], there, [*map(json.loads, body.splitlines())])
            else:
                self.refuse(404, f"nothing at {path} {batch}")

        def create(self, wanted: dict) -> None:
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in hub.repositories:
                self.say({"url": f"{hub.address}/{name}"}, 409)
                return
            private = wanted.get("private") or wanted.get("visibility") == "private"
            hub.repositories[name] = Repository(bool(private))
            self.say({"url": f"{hub.address}/{name}"})

        def ways(self, wanted: dict) -> dict:
            """Text goes into the commit, and what is not text is put elsewhere first."""
            return {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("tensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in wanted["files"]
                ]
            }

        def where_to_put(self, wanted: dict) -> dict:
            place = f"{hub.address}/put/"
            return {
                "transfer": "basic",
                "objects": [
                    one | {"actions": {"upload": {"href": f"{place}{one['oid']}"}}}
                    for one in wanted["objects"]
                ],
            }

        def commit(self, name: str, there: Repository, lines: list[dict]) -> None:
            header, *changes = lines
            parent = header["value"].get("parentCommit")
            if parent not in (None, there.sha()):
                self.refuse(412, "A commit has happened since.")
                return
            files = dict(there.commits[-1])
            for change in changes:
                value = change["value"]
                large = change["key"] == "lfsFile"
                content = hub.large[value["oid"]] if large else base64.b64decode(value["content"])
                files[value["path"]] = content
            there.commits.append(files)
            sha = there.sha()
            self.say({"commitUrl": f"{hub.address}/{name}/commit/{sha}", "commitOid": sha})

        def log_message(self, *args: object) -> None:
            pass

    return Handler
