"""Requests are what the protocols ask for, and answers are read back."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from atb_export.serving.errors import ServingError
from atb_export.serving.requests import Endpoint, endpoint_of, packed

TEXT = 'a "fine" film — 映画'


def endpoint(protocol: str, **more: Any) -> Endpoint:
    return Endpoint(host="localhost", port=80, protocol=protocol, model="m", **more)


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_json_requests_carry_the_text_and_its_size_in_bytes() -> None:
    wanted = {
        "tei": ("/predict", {"inputs": TEXT}),
        "plain": ("/predict", {"text": TEXT}),
        "infinity": ("/classify", {"model": "m", "input": [TEXT]}),
        "oip": (
            "/v2/models/m/infer",
            {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]},
        ),
    }
    for protocol, (path, document) in wanted.items():
        first, headers, body = parts(endpoint(protocol, headers={"Authorization": "Bearer x"}).request(TEXT))
        assert first == f"POST {path} HTTP/1.1"
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Authorization"] == "Bearer x"
        assert json.loads(body) == document


def test_pairs() -> None:
    assert json.loads(parts(endpoint("tei").request(("a", "b")))[2]) == {"inputs": ["a", "b"]}
    (tensor,) = json.loads(parts(endpoint("oip").request(("a", "b")))[2])["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([1, 2], ["a", "b"])
    with pytest.raises(ServingError, match="single texts"):
        endpoint("plain").request(("a", "b"))


def test_binary_tensors_follow_their_header() -> None:
    for column, shape in ((False, [1]), (True, [1, 1])):
        _, headers, body = parts(endpoint("oip-binary", column=column).request(TEXT))
        size = int(headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(body[:size])["inputs"]
        raw = body[size:]
        assert tensor["shape"] == shape
        assert tensor["parameters"]["binary_data_size"] == len(raw)
        assert raw == struct.pack("<I", len(TEXT.encode())) + TEXT.encode()


def test_the_best_label_of_every_answer() -> None:
    rows = [{"label": "b", "score": 0.2}, {"label": "a", "score": 0.8}]
    assert endpoint("tei").label(json.dumps(rows).encode()) == "a"
    assert endpoint("tei").label(json.dumps([rows]).encode()) == "a"
    assert endpoint("infinity").label(json.dumps({"data": [rows]}).encode()) == "a"
    assert endpoint("plain").label(b'{"label": "a", "score": 1}') == "a"
    logits = {"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 2.5, -1.0]}]}
    assert endpoint("oip").label(json.dumps(logits).encode()) == "1"


def test_labels_in_binary() -> None:
    label, score = b"\x02\x00\x00\x00no", struct.pack("<f", 0.5)
    outputs = [
        {"name": "score", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": len(score)}},
        {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(label)}},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    assert endpoint("oip-binary").label(head + score + label, len(head)) == "no"


@pytest.mark.parametrize("protocol", ["oip", "oip-binary", "tei", "infinity", "plain"])
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"\xff", b'{"outputs": [{"name": "logits"}]}'])
def test_what_is_no_answer_is_told(protocol: str, body: bytes) -> None:
    with pytest.raises(ServingError, match="answers what is not"):
        endpoint(protocol).label(body)


def test_addresses() -> None:
    assert endpoint_of("http://localhost:8000/") == ("localhost", 8000)
    assert endpoint_of("10.0.0.1:81") == ("10.0.0.1", 81)
    assert endpoint_of("http://[::1]:8000") == ("::1", 8000)
    for wrong in ("https://a:1", "http://a:1/v2", "http://a:99999", "http://", "ftp://a"):
        with pytest.raises(ServingError):
            endpoint_of(wrong)


def test_what_is_no_endpoint() -> None:
    with pytest.raises(ServingError, match="no protocol"):
        endpoint("grpc")
    with pytest.raises(ServingError, match="--model"):
        Endpoint(host="h", port=1, protocol="oip")
    with pytest.raises(ServingError, match="no HTTP header"):
        endpoint("tei", headers={"A": "b\r\nEvil: yes"})


def test_a_file_of_requests() -> None:
    assert packed([b"ab", b"c"]) == b"\x02\0\0\0ab\x01\0\0\0c"
