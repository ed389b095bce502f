"""A Hugging Face hub on this machine: model repositories with commits and branches, by the hub's own protocol."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Folders by commit, and commits by branch."""

    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def push(self, folder: Path, branch: str = "main") -> str:
        """A commit with the files of a folder, which must stay as it is. Returns its hash."""
        commit = hashlib.sha1(f"{len(self.commits)} {folder}".encode()).hexdigest()
        self.commits[commit] = folder
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Hub:
    """What is on it, and what was asked of it."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failing: bool = False

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.requests.append(path)
        if self.failing:
            return 503, {}, b"busy"
        parts = unquote(path).strip("/").split("/")
        if len(parts) < 4:
            return 404, {}, b""
        owner, name, kind, revision, *rest = parts[2:] if parts[:2] == ["api", "models"] else parts
        repository = self.repositories.get(f"{owner}/{name}")
        if repository is None:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        commit = repository.resolve(revision)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        folder = repository.commits[commit]
        if kind == "resolve":
            return _file(folder / "/".join(rest), commit)
        assert kind == "tree", path
        return 200, {}, json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode()


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _etag(file.read_bytes())}


def _file(file: Path, commit: str) -> tuple[int, dict[str, str], bytes]:
    if not file.is_file():
        return (
            404,
            {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit},
            b"",
        )
    content = file.read_bytes()
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{_etag(content)}"'}, content


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = served.answer(urlsplit(self.path).path)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and status == 200:
                status, body = 206, body[int(asked[1]) : int(asked[2]) + 1]
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
