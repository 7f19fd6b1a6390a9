"""What the verb `inspect` does in every application: say what was found, write the page, or keep it up to date."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from longshort.artefact import prepare
from longshort.inspection.look import Inspection
from longshort.inspection.page import page

HOST = "127.0.0.1"
LOOK = 0.5  # seconds between two looks at the file


def present(
    make: Callable[[], Inspection], model: Path, *, out: Path | None = None, serve: bool = False, port: int = 0,
    quiet: bool = False,
) -> None:  # fmt: skip
    """Show an inspection.

    Args:
        make: reads the model and looks into it.
        model: the file of the model.
        out: file for the page; None is inspect.html, or none where it is served.
        serve: serve the page on this machine until Ctrl-C, and look again whenever the file of the model changes.
        port: where; 0 takes a free one.
        quiet: print nothing but where it is served.

    Raises:
        ValueError: out is no .html, or a port is given and nothing is served.
        OSError: the page cannot be written, or the port is taken.
    """
    if out is not None and out.suffix != ".html":
        raise ValueError(f"--out must end in .html, got {str(out)!r}.")
    if port and not serve:
        raise ValueError("--port says where to serve the page: give --serve as well.")
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be in 0..65535, got {port}; 0 takes a free one.")
    target = None if out is None and serve else prepare(out or Path("inspect.html"))
    before = _state(model)
    made = make()
    text = page(made, live=serve)
    if target is not None:
        target.write_text(page(made) if serve else text, encoding="utf-8")
    if not quiet:
        code = sys.stdout.encoding or "utf-8"
        print(str(made).encode(code, "backslashreplace").decode(code))
        if target is not None:
            print(f"wrote {target}")
    if serve:
        with Server(text, made, port) as server:
            print(f"serving http://{HOST}:{server.port} until Ctrl-C", flush=True)
            try:
                _watch(server, make, model, before, quiet)
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)


def _watch(server: Server, make: Callable[[], Inspection], model: Path, before: object, quiet: bool) -> None:
    """Look again whenever the file has changed."""
    while True:
        time.sleep(LOOK)
        now = _state(model)
        if now is None or now == before:
            continue
        before = now
        try:
            server.show(made := make())
        except ValueError as e:  # the file is of another model now; the page stays as it was
            print(f"error: {e}", file=sys.stderr, flush=True)
            continue
        if not quiet:
            print(f"{model} has changed: looked again at {made.data['made']}", flush=True)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return s.st_ino, s.st_mtime_ns, s.st_size


class Server:
    """Serves the page at / and what it shows at /data?after=N, to this machine only. `port` is where.

    /data answers 204 while there is nothing newer than version N; no two servers, one after the other, have the same versions.
    """

    def __init__(self, text: str, made: Inspection, port: int = 0) -> None:
        self.now = time.time_ns() // 10**6, text.encode(), made.json.encode()  # version, page and data
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        try:
            self.http = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as e:
            raise OSError(e.errno, f"port {port} cannot be served: {e.strerror}. Give another --port, or none") from None
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def show(self, made: Inspection) -> None:
        """Something newer."""
        self.now = self.now[0] + 1, page(made, live=True).encode(), made.json.encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request. A name other than this machine's own is refused: a page from elsewhere may have led here."""
        version, text, data = self.now
        path, _, query = request.path.partition("?")
        after = query.removeprefix("after=")
        status, kind, body = 404, "text/plain", b""
        if (request.headers.get("Host") or "").partition(":")[0] not in (HOST, "localhost"):  # the port may be a forwarded one
            status, body = 403, f"This page is served to {HOST} and localhost only.".encode()
        elif request.path == "/":
            status, kind, body = 200, "text/html; charset=utf-8", text
        elif path == "/data" and query.startswith("after=") and after.isdecimal():
            status, kind, body = (204, kind, body) if int(after) >= version else (200, "application/json", data)
        request.send_response(status)
        for name, value in (("Content-Type", kind), ("Cache-Control", "no-store"), ("X-Version", str(version))):
            request.send_header(name, value)
        if status != 204:
            request.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # the browser may have gone
            request.end_headers()
            request.wfile.write(body)
