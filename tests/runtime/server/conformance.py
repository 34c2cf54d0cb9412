"""What clients of the Open Inference Protocol get from a server: ours, or Triton with a model of the same tensors.

    python conformance.py --client tritonclient --http HOST:PORT --grpc HOST:PORT --model NAME --rows ROWS.json
    python conformance.py --client kserve ...

Runs in any environment that has the client (`pip install 'tritonclient[http,grpc]'` or `kserve`; they cannot be loaded
into one process, for both define the package `inference`). ROWS.json has `texts`, `pairs`, and `input_ids`,
`attention_mask` of the same texts, and `rows`, the most that one request may have. The last line of stdout is JSON:
for each way of asking, each case's answer, with floats as the hex of their bytes, or its error's status.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """An input; `shape` may say something else than the array."""

    name: str
    data: Any
    datatype: str = ""
    shape: tuple[int, ...] | None = None

    @property
    def kind(self) -> str:
        return self.datatype or {"O": "BYTES", "i": "INT64", "f": "FP32"}[self.data.dtype.kind]


@dataclass(frozen=True)
class Case:
    """One infer request."""

    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    model: str | None = None
    version: str = ""
    id: str = ""


def strings(values: Any) -> Any:
    return np.array([x.encode() for x in np.array(values, object).reshape(-1)], object).reshape(np.shape(values))


def cases(rows: dict[str, Any]) -> dict[str, Case]:
    """All that is asked; in the first group what is answered, in the second what is refused."""
    texts, pairs = strings(rows["texts"]), strings(rows["pairs"])
    ids, mask = (np.array(rows[x], np.int64) for x in ("input_ids", "attention_mask"))
    text, tokens = Tensor("text", texts), [Tensor("input_ids", ids), Tensor("attention_mask", mask)]
    holes = mask.copy()
    holes[:, 1] = 0
    good = {
        "one text": Case([Tensor("text", texts[:1])]),
        "texts": Case([text]),
        "texts as a column": Case([Tensor("text", texts.reshape(-1, 1))]),
        "pairs": Case([Tensor("text", pairs)]),
        "tokens": Case(tokens),
        "tokens with types": Case([*tokens, Tensor("token_type_ids", np.zeros_like(ids))]),
        "tokens without padding": Case([Tensor("input_ids", ids[:1, : mask[0].sum()])]),
        "logits alone": Case([text], outputs=["logits"]),
        "outputs in an order": Case([text], outputs=["score", "logits", "label"]),
        "an id": Case([text], id="request 7 é"),
        "version 1": Case([text], version="1"),
        "as many rows as may be": Case([Tensor("text", np.resize(texts, rows["rows"]))], outputs=["logits"]),
    }
    bad = {
        "unknown model": Case([text], model="nobody"),
        "unknown version": Case([text], version="7"),
        "version that is no number": Case([text], version="x"),
        "unknown input": Case([Tensor("words", texts)]),
        "unknown output": Case([text], outputs=["embedding"]),
        "missing input": Case([tokens[1]]),
        "texts and tokens": Case([text, *tokens]),
        "text as numbers": Case([Tensor("text", np.ones(2, np.float32))]),
        "tokens as text": Case([Tensor("input_ids", texts)]),
        "three dimensions": Case([Tensor("text", texts.reshape(1, -1, 1))]),
        "one row": Case([Tensor("input_ids", ids[0]), Tensor("attention_mask", mask[0])]),
        "more shape than data": Case([Tensor("text", texts, shape=(len(texts) + 1,))]),
        "less shape than data": Case([Tensor("text", texts, shape=(len(texts) - 1,))]),
        "a negative dimension": Case([Tensor("text", texts, shape=(-len(texts),))]),
        "a shape that overflows": Case([Tensor("input_ids", ids, shape=(2**62, 8))]),
        "shapes that differ": Case([tokens[0], Tensor("attention_mask", mask[:, :-1])]),
        "no rows": Case([Tensor("text", texts[:0])]),
        "a mask with holes": Case([tokens[0], Tensor("attention_mask", holes)]),
        "an id outside of the vocabulary": Case([Tensor("input_ids", np.full((1, 4), 10**9))]),
        "a negative id": Case([Tensor("input_ids", np.full((1, 4), -1))]),
        "more tokens than the model takes": Case([Tensor("input_ids", np.full((1, 4000), 5))]),
        "too many rows": Case([Tensor("text", np.resize(texts, rows["rows"] + 1))]),
    }
    return good | bad


def shown(name: str, datatype: str, shape: Sequence[Any], array: Any) -> list[Any]:
    """An output that can be compared to the bit."""
    if datatype == "BYTES":
        values = [x if isinstance(x, str) else x.decode() for x in np.asarray(array).reshape(-1)]
    else:
        values = [np.float32(x).tobytes().hex() for x in np.asarray(array).reshape(-1)]
    return [name, datatype, [int(x) for x in shape], values]


def tensors(found: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {x["name"]: [x["datatype"], [int(size) for size in x["shape"]]] for x in found}


class Triton:
    """`tritonclient`'s clients, which differ in small things only."""

    def __init__(self, module: Any, url: str, *, binary: bool | None) -> None:
        """`binary` says how HTTP carries tensors; gRPC has one way."""
        self.module, self.binary = module, binary
        self.client = module.InferenceServerClient(url)
        self.as_json = {} if binary is not None else {"as_json": True}

    async def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        found = getattr(self.client, name)(*arguments, **more)
        return await found if inspect.isawaitable(found) else found

    async def tell(self, model: str) -> Answer:
        """All calls beside inference."""
        calls: dict[str, Callable[[], Any]] = {
            "live": lambda: self.call("is_server_live"),
            "ready": lambda: self.call("is_server_ready"),
            "model ready": lambda: self.call("is_model_ready", model),
            "unknown model ready": lambda: self.call("is_model_ready", "nobody"),
            "server": self._server,
            "model": lambda: self._model(model),
            "unknown model's metadata": lambda: self._model("nobody"),
            "index": self._index,
            "statistics": lambda: self._statistics(model),
            "unknown model's statistics": lambda: self._statistics("nobody"),
        }
        return {name: await guarded(ask) for name, ask in calls.items()}

    async def _server(self) -> Answer:
        found = await self.call("get_server_metadata", **self.as_json)
        return {"fields": sorted(found), "repository": "model_repository" in found["extensions"]}

    async def _model(self, model: str) -> Answer:
        found = await self.call("get_model_metadata", model, **self.as_json)
        return {x: tensors(found[x]) for x in ("inputs", "outputs")} | {"versions": found["versions"]}

    async def _index(self) -> list[list[str]]:
        found = await self.call("get_model_repository_index", **self.as_json)
        models = found.get("models", []) if isinstance(found, dict) else found
        return sorted([x["name"], x.get("version", ""), x.get("state", "")] for x in models)

    async def _statistics(self, model: str) -> Answer:
        found = (await self.call("get_inference_statistics", model, **self.as_json))["model_stats"][0]
        stats = found["inference_stats"]
        return {"name": found["name"], "version": found["version"], "parts": sorted(stats)}

    async def infer(self, case: Case, model: str) -> Answer:
        inputs = []
        for x in case.inputs:
            made = self.module.InferInput(x.name, list(x.data.shape), x.kind)
            made.set_data_from_numpy(x.data, **({} if self.binary is None else {"binary_data": self.binary}))
            if x.shape is not None:
                made.set_shape(list(x.shape))
            inputs.append(made)
        how = {} if self.binary is None else {"binary_data": self.binary}
        outputs = [self.module.InferRequestedOutput(name, **how) for name in case.outputs]
        found = await self.call(
            "infer",
            case.model or model,
            inputs,
            model_version=case.version,
            outputs=outputs or None,
            request_id=case.id,
        )
        response = found.get_response()
        if self.binary is None:
            fields = [(x.name, x.datatype, x.shape) for x in response.outputs]
            about = {"model": response.model_name, "version": response.model_version, "id": response.id}
        else:
            fields = [(x["name"], x["datatype"], x["shape"]) for x in response["outputs"]]
            about = {"model": response["model_name"], "version": response["model_version"]}
            about["id"] = response.get("id", "")
        return about | {"outputs": [shown(*x, found.as_numpy(x[0])) for x in fields]}


async def guarded(ask: Callable[[], Any]) -> Any:
    """The answer, or the status of what the client raised for the server's refusal."""
    try:
        return await ask()
    except Exception as error:
        status = getattr(error, "status", None)
        if not callable(status) or status() is None:
            raise
        said = str(error.message())  # type: ignore[attr-defined]
        print(f"{status()}: {said}", file=sys.stderr)
        return {"error": str(status()).removeprefix("StatusCode."), "said": bool(said)}


async def by_tritonclient(http: str, grpc: str, model: str, rows: dict[str, Any], without: str) -> dict[str, Any]:
    """Five ways: HTTP with binary tensors and with JSON, and its asyncio client; gRPC and its asyncio client."""
    import tritonclient.grpc
    import tritonclient.grpc.aio
    import tritonclient.http
    import tritonclient.http.aio

    ways = {
        "http": (tritonclient.http, http, True),
        "http json": (tritonclient.http, http, False),
        "http asyncio": (tritonclient.http.aio, http, True),
        "grpc": (tritonclient.grpc, grpc, None),
        "grpc asyncio": (tritonclient.grpc.aio, grpc, None),
    }
    found: dict[str, Any] = {}
    for way, (module, url, binary) in ways.items():
        client = Triton(module, url, binary=binary)
        try:
            asked = {name: case for name, case in cases(rows).items() if name != without}
            found[way] = {name: await guarded(partial(client.infer, case, model)) for name, case in asked.items()}
            found[way] |= await client.tell(model)
        finally:
            await client.call("close")
    return found


async def by_kserve(http: str, grpc: str, model: str, rows: dict[str, Any], without: str) -> dict[str, Any]:
    """KServe's REST and gRPC clients, asyncio both."""
    import logging

    sys.argv[1:] = []  # which it reads when it is imported

    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    logging.disable(logging.ERROR)  # it logs what it raises

    def request(case: Case, binary: bool) -> Any:
        inputs = []
        for x in case.inputs:
            made = InferInput(x.name, list(x.data.shape), x.kind)
            made.set_data_from_numpy(x.data, binary_data=binary)
            inputs.append(made)
        outputs = [RequestedOutput(x, {"binary_data": binary}) for x in ("logits", "label", "score")]
        return InferRequest(case.model or model, inputs, request_id="7", request_outputs=outputs)

    def seen(response: Any) -> Answer:
        outputs = [shown(x.name, x.datatype, x.shape, x.as_numpy()) for x in response.outputs]
        return {"model": response.model_name, "id": response.id, "outputs": outputs}

    async def refused(ask: Any) -> Any:
        try:
            return await ask
        except Exception as error:
            response = getattr(error, "response", None)
            if response is not None:
                return {"error": str(response.status_code)}
            if hasattr(error, "code"):
                return {"error": error.code().name}
            raise

    chosen = cases(rows)
    every = ("one text", "texts", "tokens", "unknown model", "unknown input", "no rows")
    names = [x for x in every if x != without]
    found: dict[str, Any] = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    try:
        url = f"http://{http}"
        for way, binary in (("rest", True), ("rest json", False)):
            answers = {}
            for name in names:
                case = chosen[name]
                asked = rest.infer(url, request(case, binary), model_name=case.model or model)
                answer = await refused(asked)
                answers[name] = answer if isinstance(answer, dict) else seen(answer)
            found[way] = answers
        found["rest"]["live"] = await rest.is_server_live(url)
        found["rest"]["ready"] = await rest.is_server_ready(url)
        found["rest"]["model ready"] = await rest.is_model_ready(url, model)
    finally:
        await rest.close()
    async with InferenceGRPCClient(grpc, retries=0) as client:
        answers = {}
        for name in names:
            answer = await refused(client.infer(request(chosen[name], True)))
            answers[name] = answer if isinstance(answer, dict) else seen(answer)
        answers["live"] = await client.is_server_live()
        answers["ready"] = await client.is_server_ready()
        answers["model ready"] = await client.is_model_ready(model)
        found["grpc"] = answers
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=("tritonclient", "kserve"), default="tritonclient")
    parser.add_argument("--http", required=True, metavar="HOST:PORT")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--without", default="", metavar="CASE", help="one that the server does not survive")
    asked = parser.parse_args()
    ask = {"tritonclient": by_tritonclient, "kserve": by_kserve}[asked.client]
    rows = json.loads(asked.rows.read_text(encoding="utf-8"))
    print(json.dumps(asyncio.run(ask(asked.http, asked.grpc, asked.model, rows, asked.without))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
