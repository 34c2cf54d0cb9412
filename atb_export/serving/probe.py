"""What kind of server listens, and whether it answers: asked before any load."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atb_export.serving.errors import ServingError
from atb_export.serving.requests import Endpoint, endpoint_of
from runtime.classifier import Text

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    header_bytes: int | None

    def document(self) -> Any:
        """The body as JSON, or None."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    host: str, port: int, path: str, *, headers: Mapping[str, str], method: str = "GET", body: bytes | None = None
) -> Answer:
    """One request on a connection of its own. Raises `ServingError` where nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        size = answer.getheader("Inference-Header-Content-Length")
        return Answer(answer.status, answer.read(), int(size) if size and size.isdigit() else None)
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"http://{host}:{port}{path} does not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()


def find_endpoint(url: str, *, protocol: str | None, model: str | None, headers: Mapping[str, str]) -> Endpoint:
    """The protocol and the model, found out where they are not given. Raises `ServingError` saying what there is."""
    host, port = endpoint_of(url)
    if protocol is None:
        protocol = "oip" if ask(host, port, "/v2", headers=headers).status in {200, 401} else "tei"
        if protocol == "tei" and ask(host, port, "/info", headers=headers).status == 404:
            raise ServingError(f"{url} speaks neither the Open Inference Protocol (/v2) nor TEI's (/info): --protocol")
    if not protocol.startswith("oip"):
        return Endpoint(host=host, port=port, protocol=protocol, model=model or "", headers=headers)
    if model is None:
        answer = ask(host, port, "/v2/repository/index", headers=headers, method="POST", body=b"{}")
        listed = answer.document() if answer.status == 200 else None
        names = sorted({str(x["name"]) for x in listed}) if isinstance(listed, list) else []
        if len(names) != 1:
            raise ServingError(f"which model of {url}? --model {' or --model '.join(names) or 'NAME'}")
        model = names[0]
    tensor, column = _text_input(host, port, model, headers)
    return Endpoint(host=host, port=port, protocol=protocol, model=model, tensor=tensor, column=column, headers=headers)


def _text_input(host: str, port: int, model: str, headers: Mapping[str, str]) -> tuple[str, bool]:
    """The input of type BYTES of a model, and whether it is a column, from its metadata."""
    answer = ask(host, port, f"/v2/models/{model}", headers=headers)
    if answer.status != 200:
        shown = answer.body[:200].decode("utf-8", "replace")
        raise ServingError(f"the server has no model {model!r} that is ready: {answer.status} {shown}")
    found = answer.document()
    inputs = found.get("inputs", []) if isinstance(found, dict) else []
    for x in inputs:
        if x.get("datatype") == "BYTES":
            return str(x["name"]), x.get("shape") == [-1, 1]
    kinds = ", ".join(f"{x.get('name')} {x.get('datatype')}" for x in inputs) or "none"
    raise ServingError(f"model {model!r} takes no texts: its inputs are {kinds}")


def first_answer(endpoint: Endpoint, text: Text) -> str:
    """The label of one text: a server that answers wrongly is not measured. Raises `ServingError`."""
    whole = endpoint.request(text)
    head, _, body = whole.partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])
    headers = {name: value for name, _, value in lines}
    answer = ask(endpoint.host, endpoint.port, endpoint.path, headers=headers, method="POST", body=body)
    if answer.status != 200:
        shown = answer.body[:300].decode("utf-8", "replace")
        raise ServingError(f"{endpoint.path} answers {answer.status} to a text of the file: {shown}")
    return endpoint.label(answer.body, answer.header_bytes)
