"""Clients that mean harm, or are broken: the right status or a closed connection, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

INFER = "/v2/models/tiny/infer"
GOOD = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}).encode()


@pytest.fixture(scope="module")
def strict(serve: Any) -> Any:
    """A server with small limits and little patience."""
    options = (
        "--idle-ms",
        1500,
        "--receive-ms",
        1000,
        "--body-bytes",
        65536,
        "--header-bytes",
        4096,
        "--text-bytes",
        4096,
    )
    with serve(*options, "--connections", 64) as running:
        yield running


def well(server: Any, wanted: dict[str, np.ndarray]) -> bool:
    return np.array_equal(server.infer(["good"])[0], wanted["good"])


# --- slow, silent and many --------------------------------------------------------------------------------------------


def test_slow_loris(strict: Any, wanted: dict[str, np.ndarray]) -> None:
    """A request that trickles in is cut off by its total time, not by the time between bytes; others do not wait."""
    with ExitStack() as stack:
        slow = [stack.enter_context(strict.connect()) for _ in range(20)]
        begun, alive = time.monotonic(), set(range(len(slow)))
        while alive and time.monotonic() - begun < 6:
            for i in sorted(alive):
                try:
                    slow[i].send(b"POST /predict HTTP/1.1\r\nX-A: b\r\n"[:1] if i % 2 else b"P")
                    slow[i].socket.settimeout(0.001)
                    if not slow[i].socket.recv(65536):
                        alive.discard(i)
                except TimeoutError:
                    pass
                except OSError:
                    alive.discard(i)
            assert well(strict, wanted)
            time.sleep(0.1)
        assert not alive
        assert time.monotonic() - begun < 4


def test_a_body_that_never_comes(strict: Any, wanted: dict[str, np.ndarray]) -> None:
    with strict.connect() as raw:
        raw.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert well(strict, wanted)
        assert raw.closed(4)


def test_a_client_that_is_half_gone_gets_its_answer(strict: Any, request_bytes: Callable[..., bytes]) -> None:
    """It has shut down its sending side: what it asked is answered, and then closed."""
    with strict.connect() as raw:
        raw.send(request_bytes(INFER, GOOD))
        raw.socket.shutdown(socket.SHUT_WR)
        reply = raw.reply()
        assert reply is None or reply.status == 200
        assert raw.closed(4)


def test_a_silent_connection_is_closed_when_idle(strict: Any, request_bytes: Callable[..., bytes]) -> None:
    with strict.connect() as silent, strict.connect() as served:
        served.send(request_bytes(INFER, GOOD))
        assert served.reply().status == 200
        assert silent.closed(5)
        assert served.closed(5)


def test_more_connections_than_are_taken(strict: Any, wanted: dict[str, np.ndarray]) -> None:
    """Those over the limit are told so or closed; when some go, others come."""
    with ExitStack() as stack:
        many = [stack.enter_context(strict.connect()) for _ in range(80)]
        many[-1].socket.settimeout(5)
        try:
            last = many[-1].socket.recv(4096)
        except OSError:
            last = b""
        assert last == b"" or last.startswith(b"HTTP/1.1 503 ")
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            assert well(strict, wanted)
            return
        except (AssertionError, OSError):
            time.sleep(0.05)
    pytest.fail("nobody is served after the many have gone")


def test_a_thousand_idle_connections_beside_active_ones(server: Any, wanted: dict[str, np.ndarray]) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(server.connect())
        for text, logits in wanted.items():
            assert np.array_equal(server.infer([text])[0], logits)
        assert server.rss_bytes > 0


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(
    server: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray]
) -> None:
    texts = [*wanted, *wanted]
    bodies = [
        json.dumps(
            {"id": str(i), "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [x]}]}
        ).encode()
        for i, x in enumerate(texts)
    ]
    with server.connect() as raw:
        raw.send(b"".join(request_bytes(INFER, x) for x in bodies))
        for i, text in enumerate(texts):
            answer = raw.reply().json
            assert answer["id"] == str(i)
            logits = next(x["data"] for x in answer["outputs"] if x["name"] == "logits")
            assert np.array_equal(np.array(logits, np.float32), wanted[text])


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n", {431, 413, 400}),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {431, 414, 413, 400}),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2000 + b"\r\n", {431, 413, 400}),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", {413}),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\n", {400, 413}),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", {400}),
        (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            {400},
        ),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", {400, 413}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 404, 505}),
        (b"\0" * 4000, {400}),
        (b"GET\r\n\r\n", {400}),
    ],
    ids=[
        *("long-field", "long-target", "many-fields", "long-body", "huge-length", "negative-length", "two-lengths"),
        *("length-and-chunks", "huge-chunk", "tls", "http2", "zeros", "no-target"),
    ],
)
def test_heads_that_are_not_taken(strict: Any, wanted: dict[str, np.ndarray], head: bytes, statuses: set[int]) -> None:
    with strict.connect() as raw:
        raw.send(head)
        reply = raw.reply(5)
        assert reply is None or reply.status in statuses, reply
        assert raw.closed(5)
    assert well(strict, wanted)


def oip(name: str, shape: Any, datatype: str, data: Any) -> bytes:
    return json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}).encode()


BODIES: dict[str, tuple[bytes, set[int]]] = {
    "no JSON": (b"hello", {400}),
    "nothing": (b"", {400}),
    "JSON that ends early": (GOOD[:-3], {400}),
    "JSON with more behind it": (GOOD + b"{}", {400}),
    "an array": (b"[1]", {400}),
    "deep arrays": (b"[" * 60_000, {400}),
    "deep objects": (b'{"a":' * 12_000, {400}),
    "deep data": (b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":' + b"[" * 30_000, {400}),
    "invalid UTF-8": (GOOD.replace(b"good", b"\xff\xfe\x80"), {400}),
    "cut UTF-8": (GOOD.replace(b"good", b"\xf0\x9f\x8e"), {400}),
    "overlong UTF-8": (GOOD.replace(b"good", b"\xc0\xaf"), {400}),
    "a NUL": (GOOD.replace(b"good", b"go\0od"), {400}),
    "a bad escape": (GOOD.replace(b"good", b"\\u12"), {400}),
    "a number for a text": (oip("text", [1], "BYTES", [7]), {400}),
    "null for a text": (oip("text", [1], "BYTES", [None]), {400}),
    "shape of other type": (oip("text", "1", "BYTES", ["good"]), {400}),
    "shape of floats": (oip("text", [1.5], "BYTES", ["good"]), {400}),
    "negative shape": (oip("text", [-1], "BYTES", ["good"]), {400}),
    "huge shape": (oip("text", [2**63 - 1], "BYTES", ["good"]), {400, 413}),
    "shape beyond 64 bits": (oip("text", [2**80], "BYTES", ["good"]), {400, 413}),
    "shapes whose product overflows": (oip("input_ids", [2**33, 2**33], "INT64", [1]), {400, 413}),
    "shapes whose product is 0 by overflow": (oip("input_ids", [2**32, 2**32], "INT64", []), {400, 413}),
    "an id beyond 64 bits": (oip("input_ids", [1, 2], "INT64", [2**70, 1]), {400}),
    "an id beyond 32 bits": (oip("input_ids", [1, 2], "INT64", [2**32 + 5, 1]), {400}),
    "a float for an id": (oip("input_ids", [1, 2], "INT64", [1e300, 1]), {400}),
    "a long text": (oip("text", [1], "BYTES", ["a" * 5000]), {413}),
    "many rows": (oip("text", [300], "BYTES", ["a"] * 300), {413}),
    "many inputs": (json.dumps({"inputs": [json.loads(GOOD)["inputs"][0]] * 500}).encode(), {400}),
    "inputs of another type": (b'{"inputs":{"text":"good"}}', {400}),
    "no inputs": (b"{}", {400}),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_not_taken(
    strict: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray], name: str
) -> None:
    body, statuses = BODIES[name]
    with strict.connect() as raw:
        raw.send(request_bytes(INFER, body))
        reply = raw.reply()
        assert reply is not None
        assert reply.status in statuses, reply
        assert reply.json["error"]
        raw.send(request_bytes(INFER, GOOD))  # the connection is still good, or was closed
        again = raw.reply()
        assert again is None or again.status == 200
    assert well(strict, wanted)


def binary(
    shape: list[int], data: bytes, size: int | None = None, datatype: str = "BYTES", name: str = "text"
) -> tuple[bytes, str]:
    """A body with a binary tensor and the header that goes with it."""
    how = {"binary_data_size": len(data) if size is None else size}
    head = json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": datatype, "parameters": how}]}).encode()
    return head + data, f"Inference-Header-Content-Length: {len(head)}"


def bytes_tensor(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(x)) + x for x in texts)


def test_a_good_binary_tensor(strict: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray]) -> None:
    """What the refused ones below are broken from."""
    body, field = binary([1], bytes_tensor(b"good"))
    with strict.connect() as raw:
        raw.send(request_bytes(INFER, body, field))
        reply = raw.reply()
        assert reply.status == 200
        logits = next(x["data"] for x in reply.json["outputs"] if x["name"] == "logits")
        assert np.array_equal(np.array(logits, np.float32), wanted["good"])


BINARIES: dict[str, tuple[bytes, str]] = {
    "a length beyond the data": binary([1], struct.pack("<I", 5) + b"good"),
    "a length of 4 GiB": binary([1], struct.pack("<I", 0xFFFFFFFF) + b"good"),
    "half a length": binary([1], b"\4\0"),
    "bytes behind the last": binary([1], bytes_tensor(b"good") + b"x"),
    "fewer than the shape": binary([2], bytes_tensor(b"good")),
    "more than the shape": binary([1], bytes_tensor(b"good", b"bad")),
    "a shape of 2^62": binary([2**62], bytes_tensor(b"good")),
    "a negative shape": binary([-1], bytes_tensor(b"good")),
    "size beyond the body": binary([1], bytes_tensor(b"good"), 10_000),
    "size of 2^63": binary([1], bytes_tensor(b"good"), 2**63),
    "negative size": binary([1], bytes_tensor(b"good"), -8),
    "size below the body": binary([1], bytes_tensor(b"good"), 4),
    "no UTF-8": binary([1], bytes_tensor(b"\xff\xfe")),
    "odd INT64": binary([1, 1], b"\1" * 7, None, "INT64", "input_ids"),
    "INT64 of 2^61 elements": binary([2**61, 1], b"", None, "INT64", "input_ids"),
    "FP16": binary([1, 1], b"\0\0", None, "FP16", "input_ids"),
    "header length beyond the body": (GOOD, "Inference-Header-Content-Length: 100000"),
    "header length within the JSON": (GOOD, "Inference-Header-Content-Length: 10"),
    "header length of 2^64": (GOOD, "Inference-Header-Content-Length: 18446744073709551616"),
    "negative header length": (GOOD, "Inference-Header-Content-Length: -1"),
    "header length that is no number": (GOOD, "Inference-Header-Content-Length: x"),
}


@pytest.mark.parametrize("name", BINARIES)
def test_binary_tensors_that_are_not_taken(
    strict: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray], name: str
) -> None:
    body, field = BINARIES[name]
    with strict.connect() as raw:
        raw.send(request_bytes(INFER, body, field))
        reply = raw.reply()
        assert reply is not None
        assert reply.status in ({413, 400} if "2^6" in name else {400}), reply
        assert reply.json["error"]
    assert well(strict, wanted)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_harm_does_not_add_up(strict: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray]) -> None:
    """Rounds of all of the above, after a first that fills what is kept: memory stays where it is."""
    attacks = [request_bytes(INFER, body) for body, _ in BODIES.values()]
    attacks += [request_bytes(INFER, body, field) for body, field in BINARIES.values()]
    attacks += [
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"x" * 30_000,
        b"GET /" + b"a" * 3000,
    ]

    def round_of() -> None:
        for attack in attacks:
            with strict.connect() as raw:
                try:
                    raw.send(attack)
                except OSError:
                    continue
                if not attack.endswith((b"x" * 10, b"a" * 10)):
                    raw.reply()

    for _ in range(6):
        round_of()
    before = strict.rss_bytes
    for _ in range(12):
        round_of()
    assert well(strict, wanted)
    assert strict.grown(before) <= 4 * 1024 * 1024


def test_clients_that_leave_before_their_answer(
    server: Any, request_bytes: Callable[..., bytes], wanted: dict[str, np.ndarray]
) -> None:
    """Their rows are dropped or computed for nobody; all that is kept is a count."""
    body = json.dumps({"inputs": [{"name": "text", "shape": [64], "datatype": "BYTES", "data": ["good film"] * 64}]})

    def leave(count: int) -> None:
        for _ in range(count):
            with server.connect() as raw:
                raw.send(request_bytes(INFER, body.encode()))
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    leave(100)
    before = server.rss_bytes
    leave(300)
    assert well(server, wanted)
    assert server.grown(before) <= 4 * 1024 * 1024
