"""A server of few lines, and the load generator: the installed one, or one compiled here from its few sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from atb_export.serving.errors import ServingError
from atb_export.serving.programs import native_program

SOURCES = Path(__file__).parents[3] / "runtime" / "native" / "load"
LABELS = ("bad", "good")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of atb-load."""
    folder = os.environ.get("ATB_BIN")
    try:
        return native_program("atb-load", Path(folder) if folder else None).parent
    except ServingError:
        compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not SOURCES.is_dir():
        pytest.skip("atb-load is not built, and there is no C++ compiler to build it")
    out = tmp_path_factory.mktemp("programs")
    files = [str(x) for x in sorted(SOURCES.glob("*.cpp"))]
    subprocess.run(
        [compiler, "-std=c++20", "-O1", f"-I{SOURCES.parent}", *files, "-o", str(out / "atb-load")], check=True
    )
    return out


@dataclass
class Served:
    """A running server: where, and what it was asked."""

    port: int
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _answer(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Both protocols, a model "m" whose texts are labelled by whether they hold "good"."""
    if path == "/v2":
        return 200, {"name": "little"}
    if path == "/v2/repository/index":
        return 200, [{"name": "m", "version": "1", "state": "READY"}]
    if path == "/v2/models/m":
        inputs = [{"name": "input_ids", "datatype": "INT64"}, {"name": "words", "datatype": "BYTES", "shape": [-1]}]
        return 200, {"name": "m", "inputs": inputs}
    if path == "/v2/models/m/infer":
        head = headers.get("inference-header-content-length")
        asked = json.loads(body if head is None else body[: int(head)])
        (tensor,) = asked["inputs"]
        assert tensor["name"] == "words"
        text = tensor["data"][0] if head is None else body[int(head) + 4 :].decode()
        return 200, {"outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": [_label(text)]}]}
    if path == "/predict":
        text = json.loads(body)["inputs"]
        return 200, [{"label": x, "score": 0.9 if x == _label(text) else 0.1} for x in LABELS]
    return 404, {"error": f"nothing at {path}"}


def _label(text: Any) -> str:
    return LABELS["good" in str(text)]


@pytest.fixture
def served() -> Iterator[Served]:
    """Answers until the test ends."""
    running = Served(port=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            running.asked.append((self.path, headers, body))
            status, document = _answer(self.path, body, headers)
            if running.status != 200 and self.path.endswith("/infer") and len(running.asked) % 2:
                status, document = running.status, {"error": "later"}
            raw = json.dumps(document).encode()
            # One write: with two, the second waits for the client's delayed acknowledgement.
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
            self.wfile.write(head.encode() + raw)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
