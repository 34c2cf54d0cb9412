"""The least that answers HTTP by ASGI: no framework, no validation. `uvicorn asgi:app`"""

from __future__ import annotations

import json
from typing import Any

from inference import load

model = load()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """`{"text": ...}` in, `{"label": ..., "score": ...}` out."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    status, answer = 200, b"{}"
    if scope["path"] == "/predict":
        answer = json.dumps(model([json.loads(body)["text"]])[0]).encode()
    elif scope["path"] != "/health":
        status = 404
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
