"""A Hugging Face hub on this machine: model repositories with commits and branches, by the hub's own protocol."""

import base64
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
    private: bool = False

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
    token: str = "hf_of_the_team"
    """Who has it may write."""
    folder: Path | None = None
    """Where commits that are pushed by the protocol lie."""

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
        if parts[:2] == ["api", "models"] and (len(parts) == 4 or parts[4] == "revision"):
            return self._told(f"{parts[2]}/{parts[3]}", parts[5] if len(parts) > 4 else "main")
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
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        return 200, {}, json.dumps([_entry(file, folder) for file in files]).encode()

    def _told(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        """What the hub says of a repository."""
        repository = self.repositories.get(name)
        commit = repository.resolve(revision) if repository is not None else None
        if repository is None or commit is None:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        folder = repository.commits[commit]
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        told = {"id": name, "sha": commit, "private": repository.private, "tags": [], "downloads": 0, "likes": 0}
        return 200, {}, json.dumps(told | {"siblings": [{"rfilename": file} for file in names]}).encode()

    def take(self, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """A repository that is made, or a commit; all files come with the commit."""
        self.requests.append(path)
        if token != f"Bearer {self.token}":
            return 401, {"X-Error-Message": "Invalid username or password."}, b'{"error": "Invalid credentials"}'
        parts = unquote(path).strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repository(name).private = asked.get("visibility") == "private"
            return 200, {}, json.dumps({"url": f"{self.url}/{name}", "id": name}).encode()
        if parts == ["api", "validate-yaml"]:
            return 200, {}, b'{"errors": [], "warnings": []}'
        name, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, {}, json.dumps({"files": files}).encode()
        assert action == "commit", path
        assert self.folder is not None
        folder = self.folder / f"{len(self.repository(name).commits)}"
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                file = folder / part["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(part["value"]["content"]))
        commit = self.repository(name).push(folder)
        told = {
            "success": True,
            "commitOid": commit,
            "commitUrl": f"{self.url}/{name}/commit/{commit}",
            "hookOutput": "",
        }
        return 200, {}, json.dumps(told).encode()


def _entry(file: Path, folder: Path) -> dict[str, object]:
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": file.stat().st_size, "oid": _etag(file.read_bytes())}


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
        def do_POST(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._send(*served.take(urlsplit(self.path).path, self.headers.get("Authorization"), given))

        def do_GET(self) -> None:
            status, headers, body = served.answer(urlsplit(self.path).path)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and status == 200:
                status, body = 206, body[int(asked[1]) : int(asked[2]) + 1]
            self._send(status, headers, body)

        do_HEAD = do_GET  # noqa: N815

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

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
