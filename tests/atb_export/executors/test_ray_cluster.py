from typing import Any

import pytest

from atb_export.executors.ray import ClusterError, RayExecutor
from runtime.target import EngineTarget, Shape

TARGET = EngineTarget(backend="openvino", shape=Shape(batch=1, length=8))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "nobody listens at 127.0.0.1:1 .*ray start --head"),
        ("ray://127.0.0.1:1", "nobody listens at ray://127.0.0.1:1"),
        ("here", "auto, HOST:PORT or ray://HOST:PORT, got 'here'"),
    ],
)
def test_an_address_where_nobody_listens_is_refused_at_once(address: str, message: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'atb-export[ray]'")
    with pytest.raises(ClusterError, match=message):
        RayExecutor(None, targets=[TARGET], address=address)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install 'atb-export\[ray\]'"):
        RayExecutor(None, targets=[TARGET])
