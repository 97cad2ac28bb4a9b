"""A Hugging Face Hub on loopback, so that tests run the real download and cache code with no network.

Set HF_ENDPOINT to `HubServer.url` in a subprocess: the libraries read it once, when they are imported.
A repository has the branch main, whose one commit is named after the files' contents; a folder NAME@BRANCH beside
it is another branch, or an earlier commit. Nothing a request says is joined to a path: repositories and files are
looked up in listings, so nothing outside ROOT is read.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

RESOLVE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<call>revision|tree|paths-info)(?:/(?P<rev>[^/]+)(?:/(?P<path>.+))?)?)?"
)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def as_json(content: object) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(content).encode())


def missing(code: str, message: str, headers: dict[str, str] | None = None, status: int = 404) -> Reply:
    """A refusal as the Hub writes it: `huggingface_hub` chooses its exception by X-Error-Code."""
    errors = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
    return Reply(status, errors | (headers or {}), json.dumps({"error": message}).encode())


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id = repo_id
        self.branch = folder.name.partition("@")[2] or "main"
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        self.oids = {name: git_oid(content) for name, content in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.oids).encode()).hexdigest()
        self.folders = sorted({up.as_posix() for name in self.files for up in Path(name).parents} - {"."})

    def file(self, name: str, byte_range: str | None) -> Reply:
        headers = {"X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if name not in self.files:
            return missing("EntryNotFound", "Entry not found", headers)
        content = self.files[name]
        headers |= {"ETag": f'"{self.oids[name]}"', "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", byte_range or "")
        if asked is None:
            return Reply(200, headers, content)
        first = int(asked[1])
        part = content[first : int(asked[2] or len(content)) + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return Reply(206, headers, part)

    def info(self) -> Reply:
        facts = {"_id": self.commit[:24], "id": self.repo_id, "sha": self.commit, "tags": []}
        state = {"private": False, "gated": False, "disabled": False}
        return as_json(facts | state | {"siblings": [{"rfilename": name} for name in self.files]})

    def entries(self) -> dict[str, dict[str, object]]:
        """What `tree` and `paths-info` tell of each folder and file."""
        entries: dict[str, dict[str, object]] = {}
        for name in self.folders:
            entries[name] = {"type": "directory", "path": name, "size": 0, "oid": git_oid(name.encode())}
        for name, content in self.files.items():
            entries[name] = {"type": "file", "path": name, "size": len(content), "oid": self.oids[name]}
        return entries

    def tree(self, under: str, recursive: bool) -> Reply:
        if under and under not in self.folders:
            return missing("EntryNotFound", f"{under} does not exist on {self.commit}")
        start = f"{under}/" if under else ""
        inside = [entry for name, entry in self.entries().items() if name.startswith(start)]
        return as_json([entry for entry in inside if recursive or "/" not in str(entry["path"])[len(start) :]])


class HubServer:
    """Serves ROOT/models/<org>/<name>/* and ROOT/datasets/<org>/<name>/* as Hub repositories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []  # "METHOD path" of everything that was asked, in order
        hub = self

        class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: no connection outlives its reply, nor `stop`
            def answer(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                reply = hub.reply(self.path, self.headers.get("Range"), body.decode())
                self.send_response(reply.status)
                for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: `HubServer.requests` is the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def reply(self, target: str, byte_range: str | None, body: str) -> Reply:
        url = urlsplit(target)
        asked = RESOLVE.fullmatch(url.path) or API.fullmatch(url.path)
        if asked is None:
            return missing("NotFound", f"no such route: {url.path}")
        part = {name: unquote(value or "") for name, value in asked.groupdict().items()}
        kept = self.root / (part["kind"] or "models")
        folders = {path.relative_to(kept).as_posix(): path for path in kept.glob("*/*/")}
        if part["id"] not in folders:
            # The Hub's answer to a stranger, who is not to know whether there is a private one.
            return missing("RepoNotFound", "Invalid username or password.", status=401)
        repos = [Repository(part["id"], path) for name, path in folders.items() if name.split("@")[0] == part["id"]]
        revisions = {repo.commit: repo for repo in repos} | {repo.branch: repo for repo in repos}
        if (revision := part["rev"] or "main") not in revisions:
            return missing("RevisionNotFound", f"Invalid rev id: {part['rev']}")
        repo = revisions[revision]
        match part.get("call"):
            case None:
                return repo.file(part["path"], byte_range)
            case "tree":
                return repo.tree(part["path"], "recursive=true" in url.query.lower())
            case "paths-info":
                named = parse_qs(body).get("paths", [])
                return as_json([entry for name, entry in repo.entries().items() if name in named])
        return repo.info()

    def stop(self) -> None:
        """Free the port, so that later connections are refused."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
