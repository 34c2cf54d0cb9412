"""LitServe as its quick start has it: setup, decode, predict, encode. It takes annotations of requests for schemas."""

import os
from typing import Any

import litserve
from inference import load


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One text a request."""

    def setup(self, device: str) -> None:
        """In the worker."""
        self.model = load()

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The text."""
        return str(request["text"])

    def predict(self, x: str) -> dict[str, Any]:
        """Label and score."""
        found: dict[str, Any] = self.model([x])[0]
        return found

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="warning")
