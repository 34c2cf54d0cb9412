"""From start to end: loading, reloading under load, draining, and what a bundle or an option may not be."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def run(binary: Path, *options: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [str(binary), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


# --- start -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "model-openvino.onnx", "tokenizer.json", "config.json", "manifest.json"]
)
def test_a_bundle_with_a_flipped_byte_never_becomes_ready(
    binary: Path, bundle: Path, tmp_path: Path, name: str
) -> None:
    if not (bundle / name).is_file():
        pytest.skip(f"the bundle has no {name}")
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    done = run(binary, "--model", f"tiny={tmp_path / 'bundle'}", "--port", 0)
    assert done.returncode == 3, done
    assert "ready" not in done.stdout
    assert name in done.stderr


def test_what_cannot_start_says_why(binary: Path, bundle: Path, tmp_path: Path, serve: Any) -> None:
    model = ["--model", f"tiny={bundle}"]
    for options, code, said in (
        ((), 2, "no bundle"),
        (("--nonsense",), 2, "--nonsense"),
        ((*model, "--port", "70000"), 2, "--port"),
        ((*model, "--port", 0, "--certificate", tmp_path / "none.pem"), 2, "--key"),
        (("--model", f"tiny={tmp_path / 'nothing'}", "--port", 0), 3, "nothing"),
    ):
        done = run(binary, *options)
        assert (done.returncode, said in done.stderr) == (code, True), (options, done)
    with serve() as server:
        done = run(binary, *model, "--port", server.port)
        assert done.returncode == 4, done
        assert str(server.port) in done.stderr
        if server.grpc_port:
            done = run(binary, *model, "--port", 0, "--grpc-port", server.grpc_port)
            assert done.returncode == 4, done
            assert str(server.grpc_port) in done.stderr


def test_without_grpc_the_server_says_so(binary: Path, bundle: Path, has_grpc: bool) -> None:
    if has_grpc:
        pytest.skip("the server was built with gRPC")
    done = run(binary, "--model", f"tiny={bundle}", "--port", 0, "--grpc-port", 0)
    assert done.returncode == 2
    assert "without gRPC" in done.stderr


def test_loopback_alone_is_served_unless_told(serve: Any) -> None:
    with serve() as server:
        tables = [Path(f"/proc/{server.process.pid}/net/{x}").read_text() for x in ("tcp", "tcp6")]
        lines = [x.split() for table in tables for x in table.splitlines()]
        listening = [x[1].split(":") for x in lines if x[3] == "0A"]
        ports = {f"{x:04X}": x for x in (server.port, server.grpc_port) if x}
        found = {port: address for address, port in listening if port in ports}
        assert set(found) == set(ports)
        assert set(found.values()) <= {"0100007F", "0000000000000000FFFF00000100007F"}, found


# --- versions and reloads ---------------------------------------------------------------------------------------------


def test_reloading_while_serving_drops_and_changes_nothing(
    serve: Any, load: Callable[..., Any], wanted: dict[str, np.ndarray]
) -> None:
    with serve("--manage") as server:
        with load(server, 4) as clients:
            for _ in range(5):
                assert server.ask("/v2/repository/models/tiny/load", {}).status == 200
                assert server.ask("/v2/health/ready").status == 200
        assert clients.answered > 50
        assert (clients.wrong, clients.refused, clients.broken) == (0, 0, [])
        assert np.array_equal(server.infer(["good"])[0], wanted["good"])


def test_a_new_version_takes_over(
    serve: Any,
    bundle: Path,
    make_bundle: Callable[..., Path],
    answers: Callable[[Path], dict[str, np.ndarray]],
    wanted: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    """A folder of versions: the highest answers, each by its number; a broken one is refused and nothing changes."""
    other = make_bundle(1)
    changed = answers(other)
    assert not np.array_equal(changed["good"], wanted["good"])
    models = tmp_path / "versions"
    shutil.copytree(bundle, models / "1")
    with serve("--manage", folder=models) as server:
        assert np.array_equal(server.infer(["good"])[0], wanted["good"])
        shutil.copytree(other, models / "2")
        assert np.array_equal(server.infer(["good"])[0], wanted["good"])
        assert server.ask("/v2/repository/models/tiny/load", {}).status == 200
        assert np.array_equal(server.infer(["good"])[0], changed["good"])
        assert np.array_equal(server.infer(["good"], "tiny/versions/1")[0], wanted["good"])
        shutil.copytree(other, models / "10")
        (models / "10" / "tokenizer.json").write_text("{}")
        refused = server.ask("/v2/repository/models/tiny/load", {})
        assert refused.status == 500
        assert "tokenizer.json" in refused.json["error"]
        assert np.array_equal(server.infer(["good"])[0], changed["good"])
        assert server.ask("/v2/repository/models/tiny/unload", {}).status == 200
        assert server.ask("/v2/models/tiny/ready").status == 503
        assert server.ask("/v2/health/ready").status == 200


def test_clients_manage_only_where_they_may(serve: Any) -> None:
    with serve() as server:
        for verb in ("load", "unload"):
            assert server.ask(f"/v2/repository/models/tiny/{verb}", {}).status == 403
        assert server.ask("/v2/health/ready").status == 200


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request(
    serve: Any, load: Callable[..., Any], tmp_path: Path, which: signal.Signals
) -> None:
    """What was accepted is answered: no connection is cut within a request, and the exit code says drained.

    Linux resets a connection that it completed for a listener which closes before accepting it; no request on it was
    ever read. So the server's own log tells: it answered as many as the clients got.
    """
    log = tmp_path / "access.log"
    with serve("--access-log", log) as server:
        with load(server, 8) as clients:
            time.sleep(0.5)
            before = clients.answered
            server.process.send_signal(which)
            time.sleep(0.1)
            code = server.process.wait(20)
        assert code == 0
        assert before > 20
        assert (clients.wrong, clients.refused, clients.broken) == (0, 0, [])
        assert clients.answered > before
        assert clients.unread <= 8
    infers = [x for x in map(json.loads, log.read_text().splitlines()) if x["target"].endswith("/infer")]
    assert [x["status"] for x in infers] == [200] * clients.answered


def test_an_idle_server_ends_at_once(serve: Any) -> None:
    with serve() as server:
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 1.5


def test_ready_turns_false_before_the_end(serve: Any) -> None:
    """Who asks while it drains is told; a connection that stays open does not keep the server."""
    with serve("--drain-ms", 4000) as server, server.connect() as raw:
        ask = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
        raw.send(ask)
        assert raw.reply().status == 200
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with server.connect() as other:  # within the grace that load balancers need
            other.send(ask)
            reply = other.reply()
        assert reply.status == 503
        assert reply.headers["connection"] == "close"
        assert server.process.wait(6) in (0, 1)
