"""A slow web server on this machine, in a process of its own: a folder with ranges, late answers and a narrow line."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from pydantic import Field

from schemas.errors import SetupError
from schemas.settings import Frozen

BLOCK_BYTES: Final = 2**18
"""What an answer puts on the line at a time."""
_START_S: Final = 60.0


class Slowness(Frozen):
    """What the way to the server is like."""

    latency_s: float = Field(0.05, ge=0, description="Seconds from a request to the first byte of its answer.")
    bytes_per_s: float = Field(100e6, gt=0, description="What all answers together send in a second.")


class Line:
    """The bytes that all answers of a server share."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Free at once.

        Args:
            bytes_per_s: what it carries.
            clock: seconds.
        """
        self.bytes_per_s, self._clock = bytes_per_s, clock
        self._free_s, self._taking = clock(), threading.Lock()

    def take(self, size: int) -> float:
        """Seconds to wait until so many bytes, behind all that were taken before, have passed."""
        with self._taking:
            now = self._clock()
            self._free_s = max(now, self._free_s) + size / self.bytes_per_s
            return self._free_s - now


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, slowness: Slowness) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.latency_s, self.line = folder, slowness.latency_s, Line(slowness.bytes_per_s)

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: whoever has enough closes the line."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:  # noqa: N802, named by http.server
        self._answer(is_head=False)

    def do_HEAD(self) -> None:  # noqa: N802, named by http.server
        self._answer(is_head=True)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _answer(self, *, is_head: bool) -> None:
        time.sleep(self.server.latency_s)
        path = self.server.folder / self.path.rpartition("/")[2]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with path.open("rb") as file:
            start, stop = self._head(os.fstat(file.fileno()).st_size)
            if not is_head:
                self._send(file.fileno(), start, stop)

    def _head(self, size: int) -> tuple[int, int]:
        """Sends what stands before the bytes; which bytes follow."""
        asked = self.headers.get("Range")
        start, stop = 0, size
        if asked is None:
            self.send_response(200)
        else:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else size, size)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return start, stop

    def _send(self, descriptor: int, start: int, stop: int) -> None:
        try:
            while start < stop:
                block = os.pread(descriptor, min(BLOCK_BYTES, stop - start), start)
                time.sleep(self.server.line.take(len(block)))
                self.wfile.write(block)
                start += len(block)
        except ConnectionError:  # who asked is gone
            self.close_connection = True


@contextmanager
def slow_server(folder: Path, slowness: Slowness) -> Iterator[str]:
    """Serves a folder while the block runs.

    Args:
        folder: of the files.
        slowness: latency and width of the line.

    Yields:
        The address of the folder.

    Raises:
        SetupError: the server did not start.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(folder, slowness, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(_START_S):
            raise SetupError(f"the web server of the bench did not start within {_START_S:g} s")
        yield f"http://127.0.0.1:{here.recv()}/set"
    except EOFError as error:
        raise SetupError("the web server of the bench died while it started") from error
    finally:
        process.terminate()
        process.join()


def _serve(folder: Path, slowness: Slowness, told: Connection) -> None:
    server = _Server(folder, slowness)
    told.send(server.server_port)
    server.serve_forever()
