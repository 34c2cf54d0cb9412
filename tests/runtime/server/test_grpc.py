"""gRPC itself: limits, deadlines, cancelling, and messages that no client library would send."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

grpc = pytest.importorskip("grpc")
pb = pytest.importorskip("tritonclient.grpc.service_pb2")
rpc = pytest.importorskip("tritonclient.grpc.service_pb2_grpc")


class Client:
    """The protocol's stub on a channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.stub = rpc.GRPCInferenceServiceStub(channel)

    def request(self, texts: list[str], **more: Any) -> Any:
        made = pb.ModelInferRequest(model_name="tiny", **more)
        tensor = made.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
        tensor.contents.bytes_contents.extend(x.encode() for x in texts)
        return made

    def logits(self, texts: list[str], **more: Any) -> np.ndarray:
        found = self.stub.ModelInfer(self.request(texts), **more).outputs[0]
        return np.array(found.contents.fp32_contents, np.float32).reshape(found.shape)


def refusal(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return caught.value.code().name, caught.value.details()


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    if not server.grpc_port:
        pytest.skip("the server was built without gRPC")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield Client(channel)


def connected(server: Any) -> Any:
    if not server.grpc_port:
        pytest.skip("the server was built without gRPC")
    own = [("grpc.use_local_subchannel_pool", 1)]  # or channels of one process share a connection
    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=own)


def test_typed_contents_are_answered_as_typed_contents(client: Client, wanted: dict[str, np.ndarray]) -> None:
    """To the bit the engine's; raw bytes in bring raw bytes back."""
    texts = list(wanted)
    np.testing.assert_array_equal(client.logits(texts), np.stack(list(wanted.values())))
    raw = pb.ModelInferRequest(model_name="tiny")
    raw.inputs.add(name="text", datatype="BYTES", shape=[1])
    raw.raw_input_contents.append(b"\4\0\0\0good")
    answer = client.stub.ModelInfer(raw)
    assert not any(x.HasField("contents") for x in answer.outputs)
    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), wanted["good"])
    assert int.from_bytes(answer.raw_output_contents[1][:4], "little") == len(answer.raw_output_contents[1]) - 4


def test_calls_we_do_not_have_say_so(client: Client) -> None:
    assert refusal(lambda: client.stub.ModelConfig(pb.ModelConfigRequest(name="tiny")))[0] == "UNIMPLEMENTED"
    assert refusal(lambda: next(client.stub.ModelStreamInfer(iter([client.request(["good"])]))))[0] == "UNIMPLEMENTED"
    shared = pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8)
    assert refusal(lambda: client.stub.SystemSharedMemoryRegister(shared))[0] == "UNIMPLEMENTED"


def _changed(client: Client, change: Callable[[Any], Any]) -> Any:
    made = client.request(["good"])
    change(made)
    return made


BROKEN: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "raw and typed": (lambda x: x.raw_input_contents.append(b"\4\0\0\0good"), "INVALID_ARGUMENT", "contents"),
    "two raw for one input": (lambda x: x.raw_input_contents.extend([b"", b""]), "INVALID_ARGUMENT", "raw_input"),
    "the wrong field": (lambda x: x.inputs[0].contents.int_contents.append(1), "INVALID_ARGUMENT", "another type"),
    "shared memory": (
        lambda x: x.inputs[0].parameters["shared_memory_region"].MergeFrom(pb.InferParameter(string_param="x")),
        "INVALID_ARGUMENT",
        "shared memory",
    ),
    "classification": (
        lambda x: x.outputs.add(name="logits").parameters["classification"].MergeFrom(pb.InferParameter(int64_param=2)),
        "INVALID_ARGUMENT",
        "classification",
    ),
    "a timeout of text": (
        lambda x: x.parameters["timeout"].MergeFrom(pb.InferParameter(string_param="1")),
        "INVALID_ARGUMENT",
        "timeout",
    ),
    "a negative timeout": (
        lambda x: x.parameters["timeout"].MergeFrom(pb.InferParameter(int64_param=-1)),
        "INVALID_ARGUMENT",
        "timeout",
    ),
    "nine dimensions": (lambda x: x.inputs[0].shape.extend([1] * 8), "INVALID_ARGUMENT", "dimensions"),
    "a shape that overflows": (lambda x: x.inputs[0].shape.__setitem__(0, 2**62), "RESOURCE_EXHAUSTED", "larger"),
    "four inputs": (lambda x: [x.inputs.add(name="text") for _ in range(3)], "INVALID_ARGUMENT", "3 inputs"),
    "four outputs": (lambda x: [x.outputs.add(name="label") for _ in range(4)], "INVALID_ARGUMENT", "3 outputs"),
    "no UTF-8": (
        lambda x: x.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff\xfe"),
        "INVALID_ARGUMENT",
        "UTF-8",
    ),
    "many rows": (
        lambda x: x.inputs[0].contents.bytes_contents.extend([b"a"] * 600),
        "RESOURCE_EXHAUSTED",
        "rows",
    ),
    "a long name": (lambda x: setattr(x, "model_name", "m" * 100_000), "NOT_FOUND", "mmm"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_requests_that_are_not_taken(client: Client, wanted: dict[str, np.ndarray], name: str) -> None:
    change, code, said = BROKEN[name]
    found = refusal(lambda: client.stub.ModelInfer(_changed(client, change)))
    assert (found[0], said in found[1]) == (code, True), found
    assert len(found[1]) < 2000
    assert np.array_equal(client.logits(["good"])[0], wanted["good"])


def test_bytes_that_are_no_message(server: Any, client: Client, wanted: dict[str, np.ndarray]) -> None:
    call = client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    codes = ("UNIMPLEMENTED", "INTERNAL", "INVALID_ARGUMENT")  # which of them is the library's choice
    for data in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x2a\x80\x80\x80\x80\x08"):
        assert refusal(lambda data=data: call(data))[0] in codes
    before = server.rss_bytes
    for _ in range(200):
        refusal(lambda: call(b"\x0a\xff\xff\xff\x7f"))
    assert server.grown(before) <= 4 * 1024 * 1024
    assert np.array_equal(client.logits(["good"])[0], wanted["good"])


def test_limits_hold(serve: Any, wanted: dict[str, np.ndarray]) -> None:
    with serve("--body-bytes", 20_000, "--rows", 4, "--text-bytes", 1000) as server:
        with connected(server) as channel:
            client = Client(channel)
            assert refusal(lambda: client.logits(["a" * 30_000]))[0] == "RESOURCE_EXHAUSTED"
            assert refusal(lambda: client.logits(["a" * 2000]))[0] == "RESOURCE_EXHAUSTED"
            assert refusal(lambda: client.logits(["a"] * 5))[0] == "RESOURCE_EXHAUSTED"
            long = [("x-long", "a" * 50_000)]
            assert refusal(lambda: client.logits(["good"], metadata=long))[0] in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        with connected(server) as channel:  # that connection may be closed for it
            assert np.array_equal(Client(channel).logits(["good"])[0], wanted["good"])


def test_compressed_zeros_do_not_fill_memory(server: Any, client: Client) -> None:
    """Half a gigabyte of them is half a megabyte on the wire, under the limit of a request."""
    before = server.rss_bytes
    with grpc.insecure_channel(
        f"127.0.0.1:{server.grpc_port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(3):
            code = refusal(lambda: call(b"\0" * (512 << 20), compression=grpc.Compression.Gzip, timeout=60))[0]
            assert code in ("UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "INTERNAL")
    assert server.grown(before) <= 32 * 1024 * 1024


def test_an_answer_later_than_the_clients_deadline_is_not_computed(
    server: Any, client: Client, wanted: dict[str, np.ndarray]
) -> None:
    """By gRPC's deadline and by the protocol's parameter; both reach the batcher."""
    many = client.request(["the plot is bad " * 9] * 256)
    assert refusal(lambda: client.stub.ModelInfer(many, timeout=0.0005))[0] == "DEADLINE_EXCEEDED"
    many.parameters["timeout"].int64_param = 1
    assert refusal(lambda: client.stub.ModelInfer(many))[0] == "DEADLINE_EXCEEDED"
    many.parameters["timeout"].int64_param = 2**62
    client.stub.ModelInfer(many)
    assert np.array_equal(client.logits(["good"])[0], wanted["good"])


def test_cancelled_calls_are_dropped(server: Any, client: Client, wanted: dict[str, np.ndarray]) -> None:
    """Rows that wait behind others and whose client has gone are not computed: the metrics count them."""

    def cancelled() -> int:
        text = server.ask("/metrics").body.decode()
        lines = [x for x in text.splitlines() if x.startswith("atb_requests_total") and 'outcome="cancelled"' in x]
        return sum(int(float(x.split()[-1])) for x in lines)

    before, end = cancelled(), time.monotonic() + 20
    while cancelled() == before and time.monotonic() < end:
        calls = [client.stub.ModelInfer.future(client.request(["the plot is bad " * 9] * 200)) for _ in range(4)]
        time.sleep(0.003)
        for call in calls:
            call.cancel()
    assert cancelled() > before
    assert np.array_equal(client.logits(["good"])[0], wanted["good"])


def test_the_token_is_asked_for(serve: Any, wanted: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Of everything but probes; over HTTP and gRPC alike."""
    (tmp_path / "token").write_text("open sesame\n")
    with serve("--token-file", tmp_path / "token", "--manage") as server:
        assert server.ask("/v2/health/live").status == server.ask("/v2/health/ready").status == 200
        assert server.ask("/v2/models/tiny").status == 401
        assert server.ask("/metrics").status == 401
        wrong = {"Authorization": "Bearer open sesamE"}
        assert server.ask("/v2/models/tiny", headers=wrong).status == 401
        server.headers["Authorization"] = "Bearer open sesame"
        assert np.array_equal(server.infer(["good"])[0], wanted["good"])
        with connected(server) as channel:
            client = Client(channel)
            assert client.stub.ServerLive(pb.ServerLiveRequest()).live
            assert client.stub.ServerReady(pb.ServerReadyRequest()).ready
            load = pb.RepositoryModelLoadRequest(model_name="tiny")
            for metadata in (
                (),
                (("authorization", "Bearer open sesamE"),),
                (("authorization", "open sesame"),),
                (("authorization", "Bearer open sesame"), ("authorization", "Bearer open sesame")),
            ):
                for ask in (
                    lambda: client.logits(["good"], metadata=metadata),  # noqa: B023 - called at once
                    lambda: client.stub.RepositoryModelLoad(load, metadata=metadata),  # noqa: B023
                    lambda: client.stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata),  # noqa: B023
                    lambda: client.stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=metadata),  # noqa: B023
                ):
                    assert refusal(ask)[0] == "UNAUTHENTICATED"
            right = (("authorization", "Bearer open sesame"),)
            assert np.array_equal(client.logits(["good"], metadata=right)[0], wanted["good"])


def test_models_are_managed_where_clients_may(serve: Any, client: Client, wanted: dict[str, np.ndarray]) -> None:
    assert client.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tiny")) is not None
    unknown = pb.RepositoryModelLoadRequest(model_name="nobody")
    assert refusal(lambda: client.stub.RepositoryModelLoad(unknown))[0] == "NOT_FOUND"
    override = pb.RepositoryModelLoadRequest(model_name="tiny")
    override.parameters["config"].string_param = "{}"
    assert refusal(lambda: client.stub.RepositoryModelLoad(override))[0] == "INVALID_ARGUMENT"
    with serve() as server, connected(server) as channel:
        load = pb.RepositoryModelLoadRequest(model_name="tiny")
        assert refusal(lambda: Client(channel).stub.RepositoryModelLoad(load))[0] == "PERMISSION_DENIED"
    with serve("--manage") as server, connected(server) as channel:
        managed = Client(channel)
        managed.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="tiny"))
        assert not managed.stub.ModelReady(pb.ModelReadyRequest(name="tiny")).ready
        assert refusal(lambda: managed.logits(["good"]))[0] == "UNAVAILABLE"
        index = managed.stub.RepositoryIndex(pb.RepositoryIndexRequest())
        assert [(x.name, x.state) for x in index.models] == [("tiny", "UNAVAILABLE")]
        assert not managed.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
        managed.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tiny"))
        assert np.array_equal(managed.logits(["good"])[0], wanted["good"])


def test_statistics_count(client: Client) -> None:
    def ask() -> Any:
        (found,) = client.stub.ModelStatistics(pb.ModelStatisticsRequest(name="tiny")).model_stats
        return found

    before = ask()
    client.logits(["good", "bad", ""])
    refusal(lambda: client.stub.ModelInfer(client.request(["good"], outputs=[{"name": "embedding"}])))
    after = ask()
    assert after.inference_count - before.inference_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    total = sum(getattr(after.inference_stats, x).ns for x in parts)
    assert 0 < total <= after.inference_stats.success.ns
    assert abs(after.last_inference / 1000 - time.time()) < 60


def test_a_signal_under_load_loses_no_answer(serve: Any, wanted: dict[str, np.ndarray]) -> None:
    """A call is answered, or turned away before it began.

    By UNAVAILABLE; but gRPC's library cancels what reaches it between its end's beginning and the client's hearing of
    it, which is one call of a client at most.
    """
    with serve() as server:
        connected(server).close()
        outcomes: dict[str, int] = {}
        lock, stop, texts = threading.Lock(), threading.Event(), list(wanted)

        def ask(seed: int) -> None:
            with connected(server) as channel:
                client = Client(channel)
                at = seed
                while not stop.is_set():
                    text, at = texts[at % len(texts)], at + 1
                    try:
                        outcome = "OK" if np.array_equal(client.logits([text])[0], wanted[text]) else "WRONG"
                    except grpc.RpcError as error:
                        outcome = error.code().name
                        time.sleep(0.01)
                    with lock:
                        outcomes[outcome] = outcomes.get(outcome, 0) + 1

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for x in threads:
            x.start()
        time.sleep(0.7)
        before = outcomes.get("OK", 0)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        during = outcomes.get("OK", 0)
        code = server.process.wait(20)
        stop.set()
        for x in threads:
            x.join()
    assert code == 0
    assert 20 < before < during  # it still answers while those who watch its readiness turn away
    assert outcomes.pop("CANCELLED", 0) <= len(threads)
    assert set(outcomes) <= {"OK", "UNAVAILABLE"}, outcomes


def test_tls(serve: Any, certificate: tuple[Path, Path], wanted: dict[str, np.ndarray]) -> None:
    """The same PEM files for both protocols; without TLS nobody is answered."""
    import http.client
    import ssl

    public, private = certificate
    with serve("--certificate", public, "--key", private) as server:
        trusted = ssl.create_default_context(cafile=str(public))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=trusted)
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
        asked = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
        for _ in range(2):
            connection.request("POST", "/v2/models/tiny/infer", json.dumps(asked))
            answer = json.loads(connection.getresponse().read())
            assert np.array_equal(np.array(answer["outputs"][0]["data"], np.float32), wanted["good"])
        connection.close()
        with server.connect() as raw:
            raw.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.closed(5)
        if not server.grpc_port:
            return
        credentials = grpc.ssl_channel_credentials(public.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials) as channel:
            assert np.array_equal(Client(channel).logits(["good"])[0], wanted["good"])
        with connected(server) as channel:
            assert refusal(lambda: Client(channel).logits(["good"], timeout=10))[0] in (
                "UNAVAILABLE",
                "DEADLINE_EXCEEDED",
            )
