"""A bundle as a Ray Serve application: replicas on any node of a cluster, the engines in each replica's process.

    pip install 'ray[serve]' atb-export[openvino]
    serve run text_classifier:app bundle=/srv/bundle            one machine, http://127.0.0.1:8000/predict
    serve deploy serve.yaml                                     a running cluster

The bundle must be at that path on every node, and the package installed there.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime import Classifier

_MOST_TEXTS = 256


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1}, health_check_period_s=10)
class TextClassifier:
    """`{"inputs": "a text"}` or `{"inputs": [["a text"], ["another"]]}`, as Text Embeddings Inference takes them."""

    def __init__(self, bundle: str) -> None:
        """Checks the bundle and compiles its engines: the replica is ready when this returns."""
        self.classify = Classifier.from_bundle(bundle)
        self.check_health()

    def check_health(self) -> None:
        """Ray replaces the replica where this raises."""
        self.classify("ready?")

    async def __call__(self, request: Request) -> Response:
        """Answers on the event loop: a tiny model takes less time than handing it to a thread."""
        try:
            inputs = (await request.json())["inputs"]
            texts = [inputs] if isinstance(inputs, str) else [_text(row) for row in inputs]
        except (ValueError, LookupError, TypeError) as error:
            return _refused(f"inputs is a text or a list of [text]: {error}")
        if not 0 < len(texts) <= _MOST_TEXTS:
            return _refused(f"1 to {_MOST_TEXTS} texts are taken at once, not {len(texts)}")
        answers: list[Any] = self.classify(texts)
        return JSONResponse(answers[0] if isinstance(inputs, str) else answers)


def _text(row: Any) -> str:
    (text,) = row
    if not isinstance(text, str):
        raise TypeError(f"a text is a string, not {type(text).__name__}")
    return text


def _refused(reason: str) -> Response:
    return JSONResponse({"error": reason, "error_type": "Validation"}, status_code=422)


def app(args: dict[str, str]) -> Application:
    """What `serve run` and `serve deploy` build."""
    if "bundle" not in args:
        raise ValueError("name the bundle: serve run text_classifier:app bundle=/srv/bundle")
    return TextClassifier.bind(args["bundle"])  # type: ignore[attr-defined, no-any-return]
