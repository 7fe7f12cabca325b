"""A web server on this machine that serves a folder, with ranges and, on request, with faults."""

import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Loopback:
    """What a server does and what it was asked.

    Attributes:
        folder: that it serves.
        address: of the folder.
        faults: file name -> what its next answers suffer, one entry each: a status such as 503, `reset` (the line
            breaks half way), `short` (half of the bytes, and the line is closed as if that was all), `wrong` (a byte is
            another one), `long` (ten megabytes follow).
        ranges: whether it knows them.
        asked: requests by file name.
        sent: bytes of files that left it.
        pause_s: between blocks of 4096 bytes.
    """

    folder: Path
    address: str = ""
    faults: dict[str, list[int | str]] = field(default_factory=lambda: defaultdict(list))
    ranges: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    pause_s: float = 0.0


class Handler(BaseHTTPRequestHandler):
    """Answers for the `Loopback` of its server."""

    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> Loopback:
        return self.server.state  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self.answer(is_head=True)

    def do_GET(self) -> None:
        self.answer(is_head=False)

    def answer(self, *, is_head: bool) -> None:
        name = self.path.removeprefix("/set/")
        path = self.state.folder / name
        self.state.asked[name] += 1
        faults = self.state.faults[name]
        fault = faults.pop(0) if faults and not is_head else None
        if isinstance(fault, int) or not path.is_file():
            self.send_response(fault if isinstance(fault, int) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = self.part(path.read_bytes()) + (bytes(10**7) if fault == "long" else b"")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not is_head:
            self.send_body(data, fault)

    def part(self, data: bytes) -> bytes:
        """What was asked for; sends the head of the answer."""
        asked = self.headers.get("Range") if self.state.ranges else None
        if asked is None:
            self.send_response(200)
            return data
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        return data[start:stop]

    def send_body(self, data: bytes, fault: str | None) -> None:
        half = len(data) // 2
        if fault == "wrong":
            data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        if fault in ("reset", "short"):
            data, self.close_connection = data[:half], True
        size = 4096 if self.state.pause_s else max(len(data), 1)
        try:
            for start in range(0, len(data), size):
                self.wfile.write(data[start : start + size])
                self.wfile.flush()
                self.state.sent += len(data[start : start + size])
                time.sleep(self.state.pause_s)
        except ConnectionError:  # who asked is gone
            self.close_connection = True
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[Loopback]:
    """Serves a folder at `http://127.0.0.1:PORT/set`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.state = Loopback(folder, f"http://127.0.0.1:{server.server_port}/set")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.state  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
