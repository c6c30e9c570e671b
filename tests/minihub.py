"""A Hugging Face Hub over loopback, for tests without a network.

It serves a folder tree (ROOT/<owner>/<name>/…) as repositories of datasets and models,
with as much of the Hub's HTTP API as `datasets`, `huggingface_hub` and `transformers`
use. A client process that is started with `Hub.env` loads them through the code that it
would use against the real one.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


class Hub:
    """`with Hub(root, home) as hub:` serves the folder `root`.

    `hub.env` points a client there; `hub.sent` counts bytes of file contents.
    """

    def __init__(self, root: Path, home: Path):
        self.root, self.home, self.sent = Path(root), Path(home), 0

    def __enter__(self) -> "Hub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "HF_HOME": str(self.home),
        }
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
        all_headers = {"Content-Type": "application/json", "Content-Length": len(data)}
        all_headers |= headers or {}
        self.send_response(status)
        for k, v in all_headers.items():
            self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, {"X-Error-Code": code})

    def _repo(self, name: str) -> Path | None:
        path = (self.hub.root / name).resolve()
        inside = self.hub.root.resolve() in path.parents
        return path if inside and path.is_dir() else None

    def _files(self, repo: Path) -> list[Path]:
        return [path for path in sorted(repo.rglob("*")) if path.is_file()]

    def _commit(self, repo: Path) -> str:
        files = self._files(repo)
        seen = [(str(p.relative_to(repo)), p.stat().st_size) for p in files]
        return hashlib.sha1(repr(seen).encode()).hexdigest()

    def _entry(self, repo: Path, path: Path) -> dict:
        return {
            "path": path.relative_to(repo).as_posix(),
            "oid": hashlib.sha1(str(path).encode()).hexdigest(),
            "type": "directory" if path.is_dir() else "file",
            "size": 0 if path.is_dir() else path.stat().st_size,
        }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        match = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", urlparse(self.path).path
        )
        repo = self._repo(match[1]) if match else None
        if not repo:
            return self._missing("RepoNotFound")
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(body)["paths"] if is_json else parse_qs(body)["paths"]
        found = [repo / name for name in asked if (repo / name).exists()]
        self._send(200, [self._entry(repo, path) for path in found])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/.+)?", path):
            return self._about(match[1])
        if match := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path
        ):
            deep = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            return self._tree(match[1], match[2] or "", deep)
        if match := re.fullmatch(
            r"(?:/datasets)?/([^/]+(?:/[^/]+)?)/resolve/[^/]+/(.+)", path
        ):
            repo = self._repo(match[1])
            if repo and (repo / match[2]).is_file():
                return self._file(repo, repo / match[2])
        self._missing("EntryNotFound")

    def _about(self, name: str) -> None:
        repo = self._repo(name)
        if not repo:
            return self._missing("RepoNotFound")
        files = [path.relative_to(repo).as_posix() for path in self._files(repo)]
        about = {
            "_id": "0" * 24,
            "id": name,
            "sha": self._commit(repo),
            "private": False,
            "gated": False,
            "disabled": False,
            "lastModified": "2025-01-01T00:00:00.000Z",
            "createdAt": "2025-01-01T00:00:00.000Z",
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": {},
            "siblings": [{"rfilename": name} for name in files],
        }
        self._send(200, about)

    def _tree(self, name: str, folder: str, deep: bool) -> None:
        repo = self._repo(name)
        if not repo or not (repo / folder).is_dir():
            return self._missing("EntryNotFound")
        paths = (repo / folder).rglob("*") if deep else (repo / folder).iterdir()
        self._send(200, [self._entry(repo, path) for path in sorted(paths)])

    def _file(self, repo: Path, file: Path) -> None:
        size = file.stat().st_size
        etag = hashlib.sha1(f"{file}{size}".encode()).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": self._commit(repo),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        first, last, status = 0, size - 1, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked:
            begin, end = asked[1], asked[2]
            if begin and end:
                first, last = int(begin), min(int(end), size - 1)
            elif begin:
                first = int(begin)
            else:  # the last `end` bytes
                first = size - int(end)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        with open(file, "rb") as f:
            f.seek(first)
            data = f.read(last - first + 1)
        if self.command != "HEAD":
            self.hub.sent += len(data)
        self._send(status, data, headers)
