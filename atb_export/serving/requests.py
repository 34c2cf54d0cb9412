"""Texts as the bytes of HTTP requests, and answers back as labels.

Two protocols: `oip`, the Open Inference Protocol over REST (with its binary tensors as `oip-binary`), which Triton and
KServe speak too, and `tei`, the `/predict` of Text Embeddings Inference. `infinity` is the `/classify` of Infinity,
`plain` a bare `{"text": ...}` to `/predict`, as tutorials of web frameworks have it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from atb_export.serving.errors import ServingError
from runtime.classifier import Text

PROTOCOLS = ("oip", "oip-binary", "tei", "infinity", "plain")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One model behind one protocol.

    `tensor` is an OIP model's input of texts: of shape [n] or, where `column`, [n, 1]; pairs are [n, 2] in both.
    """

    host: str
    port: int
    protocol: str
    model: str = ""
    tensor: str = "text"
    column: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ServingError(f"no protocol is called {self.protocol!r}; there are {', '.join(PROTOCOLS)}")
        if self.protocol.startswith("oip") and not self.model:
            raise ServingError("the Open Inference Protocol names a model: give --model")
        for name, value in self.headers.items():
            if not name or any(c in name + value for c in "\r\n") or ":" in name:
                raise ServingError(f"{name!r}: {value!r} is no HTTP header")

    @property
    def path(self) -> str:
        """Where inference is asked for."""
        if self.protocol.startswith("oip"):
            return f"/v2/models/{quote(self.model, safe='')}/infer"
        return "/classify" if self.protocol == "infinity" else "/predict"

    def request(self, text: Text) -> bytes:
        """The whole request for one text or pair."""
        body, extra = self._body(text)
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Type: {'application/octet-stream' if extra else 'application/json'}",
            f"Content-Length: {len(body)}",
            *extra,
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def _body(self, text: Text) -> tuple[bytes, list[str]]:
        parts = [text] if isinstance(text, str) else list(text)
        shape = [1] if len(parts) == 1 and not self.column else [1, len(parts)]
        if self.protocol == "oip":
            tensor = {"name": self.tensor, "shape": shape, "datatype": "BYTES", "data": parts}
            return _json({"inputs": [tensor]}), []
        if self.protocol == "oip-binary":
            raw = b"".join(struct.pack("<I", len(x)) + x for x in (part.encode() for part in parts))
            sizes = {"binary_data_size": len(raw)}
            tensors = [{"name": self.tensor, "shape": shape, "datatype": "BYTES", "parameters": sizes}]
            head = _json({"inputs": tensors, "parameters": {"binary_data_output": True}})
            return head + raw, [f"Inference-Header-Content-Length: {len(head)}"]
        if self.protocol == "tei":
            return _json({"inputs": parts[0] if len(parts) == 1 else parts}), []
        if len(parts) > 1:
            raise ServingError(f"the protocol {self.protocol} takes single texts, not pairs")
        if self.protocol == "infinity":
            return _json({"model": self.model, "input": parts}), []
        return _json({"text": parts[0]}), []

    def label(self, body: bytes, header_bytes: int | None = None) -> str:
        """The best label of an answer; `header_bytes` is its Inference-Header-Content-Length. Raises `ServingError`."""
        try:
            return self._label(body, header_bytes)
        except (ValueError, LookupError, TypeError, struct.error) as error:
            shown = body[:200].decode("utf-8", "replace")
            raise ServingError(f"{self.path} answers what is not {self.protocol}: {shown!r} ({error})") from error

    def _label(self, body: bytes, header_bytes: int | None) -> str:
        if self.protocol.startswith("oip"):
            outputs = {x["name"]: x for x in _outputs(body, header_bytes)}
            if "label" in outputs:
                return str(outputs["label"]["data"][0])
            row = outputs["logits"]["data"]
            return str(max(range(len(row)), key=row.__getitem__))
        answer = json.loads(body)
        if self.protocol == "infinity":
            return str(max(answer["data"][0], key=lambda x: float(x["score"]))["label"])
        if self.protocol == "plain":
            return str(answer["label"])
        row = answer[0] if isinstance(answer[0], list) else answer
        return str(max(row, key=lambda x: float(x["score"]))["label"])


def endpoint_of(url: str) -> tuple[str, int]:
    """Host and port of `http://host:port`. Raises `ServingError` for anything else."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ServingError(f"{url!r} has no usable port: {error}") from error
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ServingError(
            f"{url!r} is not http://HOST:PORT; load over TLS is not made here: measure before the part that ends TLS"
        )
    return parts.hostname, port


def packed(requests: Sequence[bytes]) -> bytes:
    """As `atb-load` reads them: each after its size as a little-endian u32."""
    return b"".join(struct.pack("<I", len(x)) + x for x in requests)


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _outputs(body: bytes, header_bytes: int | None) -> list[dict[str, Any]]:
    """The tensors of an OIP answer, those in binary read as well."""
    head = body if header_bytes is None else body[:header_bytes]
    outputs: list[dict[str, Any]] = json.loads(head)["outputs"]
    at = len(head)
    for x in outputs:
        size = x.get("parameters", {}).get("binary_data_size")
        if size is not None:
            x["data"] = _values(x["datatype"], body[at : at + size])
            at += size
    return outputs


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "FP32":
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if datatype != "BYTES":
        raise ValueError(f"a binary tensor of {datatype}")
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found
