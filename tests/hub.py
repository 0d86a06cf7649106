"""A hub on 127.0.0.1 for the real client: repositories are folders, with commits, gates and a way to go down."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """A repository: its newest commit is of its files' content."""

    folder: Path
    gated: bool = False

    @property
    def commit(self) -> str:
        content = [(path.relative_to(self.folder).as_posix(), path.read_bytes()) for path in self.files]
        return hashlib.sha1(repr(content).encode()).hexdigest()

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@dataclass
class Hub:
    """What it holds, and each request that it got."""

    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    """By kind and name, such as `models/someone/teacher`."""
    requests: list[str] = field(default_factory=list)
    refuses_tokens: bool = False
    kept: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)

    def content(self, name: str, revision: str) -> dict[str, bytes] | None:
        """The files of a commit that was asked for, or of a branch."""
        repo = self.repos[name]
        newest = {path.relative_to(repo.folder).as_posix(): path.read_bytes() for path in repo.files}
        self.kept[name, repo.commit] = newest
        return newest if revision == "main" else self.kept.get((name, revision))


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.refuses_tokens:
            refusal = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self._answer(401, {"error": "Unauthorized"}, refusal)
        if found := API.fullmatch(path):
            self._api(hub, f"{found[1]}/{found[2]}", found[3] or "")
        elif found := FILE.fullmatch(path):
            self._file(hub, f"{found[1] or 'models'}/{found[2]}", found[3], found[4])
        else:
            self._answer(404, {"error": "no such page"})

    do_HEAD = do_POST = do_GET

    def _api(self, hub: Hub, name: str, rest: str) -> None:
        repo = hub.repos.get(name)
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if rest == "auth-check":
            return self._gate(repo) or self._answer(200, {})
        verb, _, revision = rest.partition("/")
        revision, _, below = revision.partition("/")
        files = hub.content(name, revision or "main")
        if files is None:
            return self._answer(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        described = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        if verb == "tree":
            return self._answer(200, [entry for entry in described if str(entry["path"]).startswith(below)])
        if verb == "paths-info":
            length = int(self.headers.get("Content-Length", 0))
            asked = self.rfile.read(length).decode()
            return self._answer(200, [entry for entry in described if str(entry["path"]) in unquote(asked)])
        commit = repo.commit if revision in ("", "main") else revision
        kind = name.partition("/")[2]
        siblings = [{"rfilename": path} for path in files]
        return self._answer(
            200, {"id": kind, "sha": commit, "siblings": siblings, "gated": repo.gated, "private": False}
        )

    def _file(self, hub: Hub, name: str, revision: str, path: str) -> None:
        repo = hub.repos.get(name)
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if self._gate(repo):
            return None
        files = hub.content(name, revision)
        if files is None or path not in files:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        commit = repo.commit if revision == "main" else revision
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        return self._send(200, files[path], {"ETag": etag, "X-Repo-Commit": commit})

    def _gate(self, repo: Repo) -> bool:
        if repo.gated:
            self._answer(403, {"error": "Access to this model is restricted"}, {"X-Error-Code": "GatedRepo"})
        return repo.gated

    def _answer(self, code: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
