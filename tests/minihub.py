"""A Hugging Face Hub over loopback, for tests without a network.

It serves a folder tree (ROOT/<owner>/<name>/…) as repositories of datasets and models, with as much of the Hub's HTTP API as `datasets`,
`huggingface_hub` and `transformers` use. A client process that is started with `Hub.env` loads them through the code that it would use against the real one.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


class Hub:
    """`with Hub(root, home) as hub:` serves `root`; `hub.env` points a client there; `hub.sent` counts bytes of file contents."""

    def __init__(self, root: Path, home: Path):
        self.root, self.home, self.sent = Path(root), Path(home), 0

    def __enter__(self) -> "Hub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}", "HF_HOME": str(self.home)}
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _send(self, status: int, body, headers: dict | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, {"X-Error-Code": code})

    def _repo(self, name: str) -> Path | None:
        path = (self.hub.root / name).resolve()
        return path if path.is_dir() and self.hub.root.resolve() in path.parents else None

    def _commit(self, repo: Path) -> str:
        seen = [(str(p.relative_to(repo)), p.stat().st_size) for p in sorted(repo.rglob("*")) if p.is_file()]
        return hashlib.sha1(repr(seen).encode()).hexdigest()

    def _entry(self, repo: Path, path: Path) -> dict:
        about = {"path": path.relative_to(repo).as_posix(), "oid": hashlib.sha1(str(path).encode()).hexdigest()}
        return about | ({"type": "directory", "size": 0} if path.is_dir() else {"type": "file", "size": path.stat().st_size})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", urlparse(self.path).path)
        if not match or not (repo := self._repo(match[1])):
            return self._missing("RepoNotFound")
        asked = json.loads(body)["paths"] if "json" in self.headers.get("Content-Type", "") else parse_qs(body)["paths"]
        self._send(200, [self._entry(repo, repo / p) for p in asked if (repo / p).exists()])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/.+)?", path):
            if not (repo := self._repo(match[1])):
                return self._missing("RepoNotFound")
            files = [{"rfilename": p.relative_to(repo).as_posix()} for p in sorted(repo.rglob("*")) if p.is_file()]
            about = {"_id": "0" * 24, "id": match[1], "sha": self._commit(repo), "private": False, "gated": False, "disabled": False}
            dates = {"lastModified": "2025-01-01T00:00:00.000Z", "createdAt": "2025-01-01T00:00:00.000Z"}
            return self._send(200, about | dates | {"tags": [], "downloads": 0, "likes": 0, "cardData": {}, "siblings": files})
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path):
            if not (repo := self._repo(match[1])) or not (folder := repo / (match[2] or "")).is_dir():
                return self._missing("EntryNotFound")
            deep = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            return self._send(200, [self._entry(repo, p) for p in sorted(folder.rglob("*") if deep else folder.iterdir())])
        if match := re.fullmatch(r"(?:/datasets)?/([^/]+(?:/[^/]+)?)/resolve/[^/]+/(.+)", path):
            if not (repo := self._repo(match[1])) or not (file := repo / match[2]).is_file():
                return self._missing("EntryNotFound")
            return self._file(repo, file)
        self._missing("EntryNotFound")

    def _file(self, repo: Path, file: Path) -> None:
        size = file.stat().st_size
        etag = hashlib.sha1(f"{file}{size}".encode()).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self._commit(repo), "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        first, last, status = 0, size - 1, 200
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(match[1]) if match[1] else size - int(match[2])
            last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
            headers["Content-Range"], status = f"bytes {first}-{last}/{size}", 206
        with open(file, "rb") as f:
            f.seek(first)
            data = f.read(last - first + 1)
        if self.command != "HEAD":
            self.hub.sent += len(data)
        self._send(status, data, headers)
