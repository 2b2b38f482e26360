"""A hub on this machine that answers huggingface_hub, and the addresses of plain files, as far as the tests ask it."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class FakeHub:
    """Repositories "owner/name" -> revision -> files; what was asked for."""

    address: str = ""
    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.address, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def find(self, repository: str, revision: str) -> Files | None:
        revisions = self.repositories[repository]
        by_commit = {commit_of(files): files for files in revisions.values()}
        return revisions.get(revision, by_commit.get(revision))

    def look_up(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an address."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        kind, parts = ("api", parts[2:]) if parts[:2] == ["api", "models"] else ("file", parts)
        repository, (what, revision, *rest) = "/".join(parts[:2]), parts[2:] or ["revision", "main"]
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        files = self.find(repository, revision)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit = commit_of(files)
        if kind == "file":
            content = files["/".join(rest)]
            return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        return 200, {}, json.dumps(tree if what == "tree" else {"id": repository, "sha": commit}).encode()

    def take(self, path: str, body: bytes) -> dict[str, object]:
        """Answer what is posted."""
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            about = json.loads(body)
            repository = f"{about['organization']}/{about['name']}"
            self.repositories.setdefault(repository, {"main": {}})
            return {"url": f"{self.address}/{repository}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        files = self.repositories["/".join(parts[2:4])][parts[5]]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.address}/{'/'.join(parts[2:4])}/commit/{commit_of(files)}", "commitOid": "0" * 40}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(*hub.look_up(urlsplit(self.path).path))

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(hub.take(self.path, body)).encode())

        def log_message(self, *about: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
