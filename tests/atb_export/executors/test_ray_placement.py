from typing import Any

import pytest

from atb_export.executors.ray_cluster import ClusterError, ClusterNode
from atb_export.executors.ray_placement import REST_S, Placement, Ticket, check_offers, resource_of
from atb_export.jobs import Failed, MeasureJob
from runtime.target import EngineTarget, Shape


def target(backend: str = "openvino", device: str = "CPU") -> EngineTarget:
    return EngineTarget(backend=backend, device=device, shape=Shape(batch=1, length=8))


def node(name: str, **offers: float) -> ClusterNode:
    return ClusterNode(id=name, address="10.0.0.1", offers={"CPU": 2.0, "memory": 1e9, **offers})


def ticket(index: int = 0, **changes: Any) -> Ticket:
    job = MeasureJob(subnet=None, target=target(), reference=target())
    values = {"kind": ("openvino", "CPU"), "resource": "spr", "threads": 1, "label": "x", **changes}
    return Ticket(index=index, job=job, **values)


def test_a_resource_is_named_by_backend_and_device_unless_it_is_renamed() -> None:
    assert resource_of(target(), {}) == "openvino-cpu"
    assert resource_of(target(), {"openvino-CPU": "openvino-spr"}) == "openvino-spr"
    assert resource_of(target("tensorrt", "sm_90"), {"openvino-CPU": "openvino-spr"}) == "tensorrt-sm_90"


def test_every_device_gets_a_job_before_any_gets_two() -> None:
    placement, nodes = Placement(), [node("a", spr=1.0), node("b", spr=2.0), node("c")]
    given = []
    for i in range(3):
        chosen = placement.choose(x := ticket(i), nodes)
        assert isinstance(chosen, ClusterNode)
        placement.give(x, chosen, i)
        given.append(chosen.id)
    assert sorted(given) == ["a", "b", "b"]
    assert placement.choose(ticket(), nodes) is None
    placement.take(x)
    assert placement.choose(ticket(), nodes) == x.node


def test_a_node_of_the_wrong_kind_is_left_out_until_nobody_is_left() -> None:
    placement, nodes = Placement(), [node("a", spr=1.0), node("b", spr=1.0)]
    for name, reason in (("a", "it has no AMX"), ("b", "it is a GPU box")):
        chosen = placement.choose(x := ticket(), nodes)
        assert isinstance(chosen, ClusterNode)
        assert chosen.id == name
        placement.give(x, chosen, 0)
        placement.take(x)
        placement.exclude(x, reason)
    found = placement.choose(ticket(), nodes)
    assert isinstance(found, Failed)
    assert not found.lasting
    assert "it has no AMX" in found.reason
    assert "it is a GPU box" in found.reason
    assert placement.choose(ticket(kind=("openvino", "GPU")), nodes) is not None


def test_a_lost_job_goes_elsewhere_and_a_lost_node_rests() -> None:
    now = [0.0]
    placement, nodes = Placement(clock=lambda: now[0]), [node("a", spr=1.0), node("b", spr=1.0)]
    assert placement.choose(ticket(avoid={"a"}), nodes) == nodes[1]
    placement.rest(nodes[1])
    assert placement.choose(ticket(avoid={"a"}), nodes) == nodes[0]
    assert placement.choose(ticket(avoid={"a"}), nodes[1:]) == nodes[1], "there is no other"
    now[0] = REST_S
    assert placement.choose(ticket(avoid={"a"}), nodes) == nodes[1]


def test_what_no_node_offers_is_refused_with_what_they_have() -> None:
    with pytest.raises(ClusterError, match=r"offers spr: 10\.0\.0\.1 \(a\) has CPU 2, gpu 1\. .*--resource"):
        Placement().choose(ticket(), [node("a", gpu=1.0)])
    with pytest.raises(ClusterError, match="there is no node"):
        check_offers([target()], {}, [])


def test_two_names_for_one_processor_are_refused() -> None:
    targets, box = [target(), target("onnxruntime")], node("a", **{"openvino-cpu": 1.0, "onnxruntime-cpu": 1.0})
    with pytest.raises(ClusterError, match="--resource onnxruntime-CPU=onnxruntime-cpu"):
        check_offers(targets, {}, [box])
    check_offers(targets, {"onnxruntime-CPU": "openvino-cpu"}, [box])
