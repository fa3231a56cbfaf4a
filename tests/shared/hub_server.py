"""A stand-in of the Hub's HTTP interface on loopback: what huggingface_hub asks of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

TOKEN = "hf_right"


@dataclass
class Repository:
    """The commits of one repository, oldest first: sha -> files."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        told = json.dumps({name: hashlib.sha1(x).hexdigest() for name, x in files.items()})
        sha = hashlib.sha1(f"{len(self.commits)} {told}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        return sha

    def find(self, revision: str) -> str | None:
        if revision == "main":
            return [*self.commits][-1] if self.commits else None
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """All repositories by kind and name, and the requests that came."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, kind: str = "models", **how: bool) -> str:
        """A repository that holds the files of a folder; its commit."""
        held = self.repositories.setdefault((kind, name), Repository(**how))
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        return held.commit({name: path.read_bytes() for name, path in files.items()})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._read()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = urlparse(self.path).path, self._body()
        self.hub.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._fail(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            told = json.loads(body)
            if told["organization"] != "me":
                return self._fail(403, "", "You don't have the rights to create a model there.")
            name = f"{told['organization']}/{told['name']}"
            hidden = told.get("private") or told.get("visibility") == "private"
            self.hub.repositories[f"{told.get('type') or 'model'}s", name] = Repository(hidden)
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        found = re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/(preupload|commit)/main", path)
        held = self.hub.repositories.get((found[1], found[2])) if found else None
        if found is None or held is None:
            return self._fail(404, "RepoNotFound", "Repository not found")
        if found[3] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            each = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._json({"files": each})
        head = held.find("main")
        files = dict(held.commits[head]) if head else {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        sha = held.commit(files)
        return self._json({"commitUrl": f"{self.hub.url}/{found[2]}/commit/{sha}",
                           "commitOid": sha, "success": True})  # fmt: skip

    def _read(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        api = re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?/?", path
        )
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api is None and file is None:
            return self._fail(404, "", "no such page")
        if api:
            kind, name, what, revision = api[1], api[2], api[3], api[4] or "main"
        else:
            assert file is not None
            kind, name, what, revision = file[1] or "models", file[2], "file", file[3]
        held = self.hub.repositories.get((kind, name))
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            return self._fail(401, "", "Invalid credentials in Authorization header")
        if held is None or (held.private and given is None):
            return self._fail(404 if given else 401, "RepoNotFound", "Repository not found")
        sha = held.find(revision)
        if sha is None and (revision != "main" or what == "tree"):
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = held.commits[sha] if sha else {}
        if held.gated and what in ("file", "tree"):
            return self._fail(403, "GatedRepo", "Access to model is restricted")
        if what == "tree":
            return self._json(
                [{"type": "file", "path": n, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                 for n, x in sorted(files.items())]
            )  # fmt: skip
        if what == "file":
            assert file is not None
            content = files.get(file[4])
            if content is None:
                return self._fail(404, "EntryNotFound", "Entry not found")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._send(200, content, {"ETag": etag, "X-Repo-Commit": sha or ""})
        siblings = [{"rfilename": name} for name in sorted(files)]
        gated = "auto" if held.gated else False
        told = {"id": name, "sha": sha, "private": held.private, "gated": gated}
        return self._json({**told, "siblings": siblings})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str) -> None:
        told = {"X-Error-Code": code} if code else {}
        self._send(status, b"", told | {"X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """An empty stand-in, listening."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
