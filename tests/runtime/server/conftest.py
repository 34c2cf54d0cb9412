"""The real server on a small real bundle, and what talks to it in bytes."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.classifier import Classifier

ROOT = Path(__file__).parents[3]
START_S = 60.0
LABELS = ("neg", "neutral", "pos")
TEXTS = (
    "",
    "good",
    "a dull plot.",
    "this film is superb and the story is warm , clever and all",
    "the plot is bad " * 9,
    "x" * 90,
    "🎬 映画 é",
    "bad",
)


@dataclass(frozen=True)
class Reply:
    """What came back; `json` where it is that."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running `atb-server`."""

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    log: Path
    name: str = "tiny"
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, document: Any = None, *, headers: dict[str, str] | None = None, verb: str = "") -> Reply:
        """One request on a connection of its own."""
        body = document if isinstance(document, bytes | None) else json.dumps(document).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            more = {"Content-Type": "application/json", **self.headers, **(headers or {})}
            connection.request(verb or ("GET" if body is None else "POST"), path, body, more)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def infer(self, texts: Sequence[str], model: str = "") -> np.ndarray:
        """Logits as JSON carries them."""
        tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
        asked = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
        reply = self.ask(f"/v2/models/{model or self.name}/infer", asked)
        assert reply.status == 200, reply
        (output,) = reply.json["outputs"]
        return np.array(output["data"], np.float32).reshape(output["shape"])

    @contextmanager
    def connect(self) -> Iterator[Raw]:
        """A connection that sends what it is told to."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as found:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield Raw(found)

    @property
    def rss_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGESIZE")

    def grown(self, before: int) -> int:
        """By how many bytes its memory grew; nothing under a sanitizer (ATB_SANITIZED), which keeps what was freed."""
        return 0 if os.environ.get("ATB_SANITIZED") else self.rss_bytes - before

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


class Raw:
    """Bytes to a server, and its answers one by one."""

    def __init__(self, found: socket.socket) -> None:
        self.socket = found
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, timeout_s: float = 20.0) -> Reply | None:
        """The next answer; None where the server closed instead."""
        self.socket.settimeout(timeout_s)
        try:
            while b"\r\n\r\n" not in self._rest:
                if not (more := self.socket.recv(65536)):
                    assert not self._rest, self._rest
                    return None
                self._rest += more
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:])}
            size = int(headers.get("content-length", "0"))
            while len(self._rest) < size:
                more = self.socket.recv(65536)
                assert more, "closed within a body"
                self._rest += more
        except ConnectionResetError:
            return None
        body, self._rest = self._rest[:size], self._rest[size:]
        return Reply(int(lines[0].split()[1]), headers, body)

    def closed(self, timeout_s: float) -> bool:
        """Whether the server closes within that time, whatever it says before."""
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def post(path: str, body: bytes, *fields: str) -> bytes:
    """A whole request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Load:
    """Threads that ask all the time and hold every answer against the engine's, until the block ends."""

    def __init__(self, server: Server, wanted: dict[str, np.ndarray], threads: int) -> None:
        self.answered, self.refused, self.wrong = 0, 0, 0
        self.unread = 0  # the system took the connection, and the server's end came before it did
        self.broken: list[str] = []
        self._server, self._wanted = server, wanted
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for x in self._threads:
            x.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Lets everybody finish the request under way."""
        self._stop.set()
        for x in self._threads:
            x.join()

    def _run(self, seed: int) -> None:
        texts, at, connection, fresh = list(self._wanted), seed, None, False
        while not self._stop.is_set():
            text, at = texts[at % len(texts)], at + 1
            body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]})
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
                    connection.connect()
                    fresh = True
            except OSError:  # nobody listens any more: nothing of ours was accepted
                connection = None
                self._stop.wait(0.05)
                continue
            try:
                connection.request("POST", f"/v2/models/{self._server.name}/infer", body)
                answer = connection.getresponse()
                document, closing = json.loads(answer.read()), answer.will_close
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    if fresh and isinstance(error, ConnectionError):  # before the first byte of an answer
                        self.unread += 1
                    else:
                        self.broken.append(repr(error))
                connection.close()
                connection = None
                continue
            fresh = False
            with self._lock:
                if answer.status == 200:
                    found = next(x for x in document["outputs"] if x["name"] == "logits")
                    same = np.array_equal(np.array(found["data"], np.float32), self._wanted[text])
                    self.answered, self.wrong = self.answered + 1, self.wrong + (not same)
                else:
                    self.refused += 1
            if closing:
                connection.close()
                connection = None


def _binary(name: str, variable: str) -> Path:
    if (named := os.environ.get(variable)) is not None:
        return Path(named)
    places = [ROOT / "runtime" / "_bin" / name, *sorted(ROOT.glob(f"build*/**/{name}"))]
    for place in places:
        if place.is_file():
            return place
    pytest.skip(f"{name} is not built: pip install . where there is a compiler, or name it in {variable}")


@pytest.fixture(scope="session")
def binary() -> Path:
    return _binary("atb-server", "ATB_SERVER")


@pytest.fixture(scope="session")
def has_grpc(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether the server was built with gRPC: it says so before it looks for models."""
    nothing = tmp_path_factory.mktemp("nothing")
    command = [str(binary), "--model", f"x={nothing}", "--port", "0", "--grpc-port", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
    return "without gRPC" not in answer.stderr


@pytest.fixture(scope="session")
def make_bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny BERT with random weights, packed for OpenVINO at two lengths."""
    import torch
    from transformers import AutoTokenizer

    from atb_export.dense import DenseModel
    from atb_export.packing import Origin, pack
    from runtime.target import EngineTarget, Shape
    from supernet.batches import tokenize
    from supernet.facts import ModelFacts
    from supernet.model import Supernet
    from supernet.space import SubnetConfig

    @torch.no_grad()
    def build(seed: int = 0) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
        facts = ModelFacts(vocab_size=200, max_position_embeddings=48, num_labels=len(LABELS))
        shape = SubnetConfig.uniform(hidden_size=32, depth=2, heads=4, head_size=8, ffn_size=64)
        net = Supernet(shape=shape, facts=facts).eval()
        rng = torch.Generator().manual_seed(seed)
        for name, x in net.named_parameters():
            noise = torch.randn(x.shape, generator=rng)
            norm = "norm" in name and name.endswith("weight")
            x.copy_(1 + 0.3 * noise if norm else 0.3 * noise if x.dim() == 1 else noise * x.shape[1] ** -0.5)
        folder = tmp_path_factory.mktemp("made") / "bundle"
        targets = [EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=x)) for x in (16, 32)]
        texts = tokenize(tokenizer, [(x,) for x in TEXTS], max_length=32)
        origin = Origin(name="tiny", task="telling neg, neutral or pos", max_length=32)
        pack(DenseModel(net=net, tokenizer=tokenizer, labels=LABELS), folder, targets, texts=texts, origin=origin)
        return folder

    return build


@pytest.fixture(scope="session")
def bundle(binary: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle()


@pytest.fixture(scope="session")
def wanted(bundle: Path) -> dict[str, np.ndarray]:
    """What the engine answers to each text, by our portable classifier."""
    return answers_of(bundle)


def answers_of(folder: Path) -> dict[str, np.ndarray]:
    with Classifier.from_bundle(folder) as classify:
        return {text: classify.logits([text])[0] for text in TEXTS}


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def serve(binary: Path, bundle: Path, has_grpc: bool, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`with serve("--rows", 4) as server:`; a `folder` of a bundle or of versions, and `environment` variables."""

    @contextmanager
    def start(*options: object, folder: Path | None = None, **environment: str) -> Iterator[Server]:
        log = tmp_path_factory.mktemp("log") / "stderr"
        usual = ["--port", "0", "--json-ready", "--workers", "1", "--deadline-ms", "10000"]
        usual += ["--grpc-port", "0"] if has_grpc else []
        command = [str(binary), "--model", f"tiny={folder or bundle}", *usual, *map(str, options)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env={**os.environ, **environment})
        try:
            said = _ready(process, log)
            yield Server(process, int(said["port"]), int(said["grpc_port"]), log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()
        said_last = log.read_text(errors="replace")
        assert "Sanitizer" not in said_last, said_last

    return start


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    if select.select([process.stdout], [], [], START_S)[0] and (line := process.stdout.readline()):
        found: dict[str, Any] = json.loads(line)
        return found
    pytest.fail(f"the server did not become ready (exit code {process.poll()}):\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def server(serve: Serve) -> Iterator[Server]:
    """One that many tests talk to, and none harms."""
    with serve("--manage") as running:
        yield running


@pytest.fixture
def load(wanted: dict[str, np.ndarray]) -> Callable[[Server, int], Load]:
    return lambda server, threads: Load(server, wanted, threads)


@pytest.fixture(scope="session")
def request_bytes() -> Callable[..., bytes]:
    return post


@pytest.fixture(scope="session")
def answers() -> Callable[[Path], dict[str, np.ndarray]]:
    return answers_of


PAIRS = (("a good film", "dull"), ("bad", ""), ("the story is clever " * 4, "warm " * 20))
ROWS = 256  # the server's own limit on texts of a request


@pytest.fixture(scope="session")
def rows(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conformance script asks: texts, pairs, and the texts as tokens, padded to one width."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(32, strategy="longest_first")
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    found = tokenizer.encode_batch(list(TEXTS))
    document = {
        "texts": TEXTS,
        "pairs": PAIRS,
        "rows": ROWS,
        "input_ids": [x.ids for x in found],
        "attention_mask": [x.attention_mask for x in found],
    }
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="session")
def conform(rows: Path) -> Callable[..., dict[str, Any]]:
    """What a client got from a server. It runs in `python`: ATB_CLIENTS_PYTHON, or this one where it has the client."""

    def run(client: str, http: str, grpc: str, model: str, without: str = "") -> dict[str, Any]:
        python = os.environ.get("ATB_CLIENTS_PYTHON", sys.executable)
        need = "import tritonclient.http.aio, tritonclient.grpc.aio" if client == "tritonclient" else "import kserve"
        if subprocess.run([python, "-c", need], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{python} has no {client}: pip install 'tritonclient[http,grpc]' kserve; ATB_CLIENTS_PYTHON")
        script = Path(__file__).with_name("conformance.py")
        command = [python, str(script), "--client", client, "--http", http, "--grpc", grpc, "--model", model]
        answer = subprocess.run(
            [*command, "--rows", str(rows), "--without", without],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert answer.returncode == 0, answer.stderr[-4000:]
        found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
        return found

    return run


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory, binary: Path, bundle: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    public, private = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, *names, "-keyout", private, "-out", public], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    no_key = ["--certificate", public, "--key", folder]  # a folder is none: the server ends either way
    tried = [binary, "--model", f"x={bundle}", "--port", "0", *no_key]
    if "without TLS" in subprocess.run(tried, check=False, capture_output=True, text=True, timeout=60).stderr:
        pytest.skip("the server was built without TLS")
    return public, private
