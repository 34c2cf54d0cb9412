"""Servers as processes: started on their cores, frozen while others are measured, asked, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rivals import python_of

from atb_export.serving.programs import native_program
from atb_export.serving.requests import Endpoint

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).resolve().parent / "peers"
_START_S = 180.0
_STOP_S = 20.0


class NoServerError(Exception):
    """Why a server takes no part."""


@dataclass(kw_only=True)
class Server:
    """One process group that answers at `endpoint`."""

    name: str
    endpoint: Endpoint
    command: Sequence[str]
    ready: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT
    log: Path
    cpus: str = ""
    others: tuple[Endpoint, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Returns once it is ready. Raises `NoServerError` with the end of its log."""
        command = [*(("taskset", "-c", self.cpus) if self.cpus else ()), *self.command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.process.poll() is None:
            if self._is_ready():
                return self
            time.sleep(0.1)
        self.stop()
        tail = " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-6:])
        raise NoServerError(f"did not become ready: {tail[-600:]}")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.endpoint.host, self.endpoint.port, timeout=2)
        try:
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, what: signal.Signals) -> None:
        """To the process and all it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, what)

    @contextmanager
    def awake(self) -> Any:
        """The others stay frozen: idle threads that poll would take time from this one's cores."""
        self.signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self.signal(signal.SIGSTOP)

    def stop(self) -> None:
        """By SIGTERM, then by force."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None


def free_ports(count: int) -> list[int]:
    """That nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for x in sockets:
        x.bind(("127.0.0.1", 0))
    found = [int(x.getsockname()[1]) for x in sockets]
    for x in sockets:
        x.close()
    return found


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where servers are made: the rivals' environments, our programs' folder, their cores, a folder for files."""

    rivals: Path | None
    programs: Path | None
    cpus: str
    threads: int
    scratch: Path


def ours(bundle: Path, place: Place, *, name: str = "ours", options: Sequence[str] = ()) -> Server:
    """The native server; TEI's way of asking, and OIP's with binary tensors."""
    (port,) = free_ports(1)
    command = [str(native_program("atb-server", place.programs)), "--model", f"text={bundle}", "--port", str(port)]
    common: dict[str, Any] = {"host": "127.0.0.1", "port": port, "model": "text"}
    return Server(
        name=name,
        endpoint=Endpoint(protocol="tei", **common),
        others=(Endpoint(protocol="oip-binary", **common),),
        command=[*command, *options],
        ready="/v2/health/ready",
        log=place.scratch / f"{name.replace(' ', '-')}.log",
        cpus=place.cpus,
    )


def peer(name: str, bundle: Path, engine: str, place: Place) -> Server:
    """One of the others with the `documented` engine or `ours`. Raises `NoServerError`."""
    from rivals import missing

    if (reason := missing(place.rivals, name)) is not None:
        raise NoServerError(reason)
    assert place.rivals is not None
    (port,) = free_ports(1)
    make: Callable[..., Server] = {"triton": _triton, "infinity": _infinity}.get(name, _python)
    environment = {
        "PEER_BUNDLE": str(bundle.absolute()),
        "PEER_ENGINE": engine,
        "PEER_PORT": str(port),
        "PEER_THREADS": str(place.threads),
        "OMP_NUM_THREADS": str(place.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(PEERS),
        "NO_COLOR": "1",
    }
    title = f"{name} + our engine" if engine == "ours" else name
    log = place.scratch / f"{title.replace(' ', '-')}.log"
    return make(name=name, title=title, bundle=bundle, place=place, port=port, environment=environment, log=log)


def _python(
    *, name: str, title: str, bundle: Path, place: Place, port: int, environment: dict[str, str], log: Path
) -> Server:
    assert place.rivals is not None
    python = str(python_of(place.rivals, name))
    command = [python, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", "--no-access-log"]
    if name == "litserve":
        command = [python, str(PEERS / "litserve_app.py")]
    else:
        command.append("asgi:app" if name == "asgi" else "fastapi_app:app")
    return Server(
        name=title,
        endpoint=Endpoint(host="127.0.0.1", port=port, protocol="plain"),
        command=command,
        environment=environment,
        log=log,
        folder=PEERS,
        cpus=place.cpus,
    )


def _infinity(
    *, name: str, title: str, bundle: Path, place: Place, port: int, environment: dict[str, str], log: Path
) -> Server:
    if environment["PEER_ENGINE"] == "ours":
        raise NoServerError("it runs torch; our engine cannot be put into it")
    assert place.rivals is not None
    python = python_of(place.rivals, name)
    model = str(bundle.absolute())
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", model, "--served-model-name", "text"]
    command += ["--device", "cpu", "--engine", "torch", "--host", "127.0.0.1", "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return Server(
        name=title,
        endpoint=Endpoint(host="127.0.0.1", port=port, protocol="infinity", model="text"),
        command=[*command, "--log-level", "warning"],
        environment={**environment, **offline, "PYTHONPATH": ""},
        log=log,
        cpus=place.cpus,
    )


def _triton(
    *, name: str, title: str, bundle: Path, place: Place, port: int, environment: dict[str, str], log: Path
) -> Server:
    assert place.rivals is not None
    repository = place.scratch / f"triton-{environment['PEER_ENGINE']}" / "models"
    (repository / "text" / "1").mkdir(parents=True, exist_ok=True)
    # Its Python reads no PYTHONPATH, but finds what lies beside a model.
    for name_there, here in (("model.py", "triton_model.py"), ("inference.py", "inference.py")):
        (repository / "text" / "1" / name_there).write_bytes((PEERS / here).read_bytes())
    (repository / "text" / "config.pbtxt").write_bytes((PEERS / "config.pbtxt").read_bytes())
    command, more = triton_command(python_of(place.rivals, name), repository, port)
    return Server(
        name=title,
        endpoint=Endpoint(host="127.0.0.1", port=port, protocol="oip-binary", model="text", column=True),
        command=command,
        environment={**environment, **more},
        ready="/v2/health/ready",
        log=log,
        cpus=place.cpus,
    )


def triton_command(python: Path, repository: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """How to start the Triton that the package nvidia-pytriton brings, which has the Python backend alone."""
    ask = (
        "import sysconfig as s, sys; print(s.get_paths()['purelib'], s.get_config_var('LIBDIR'), *sys.version_info[:2])"
    )
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    packages, library, *version = done.stdout.split()
    triton = Path(packages) / "pytriton" / "tritonserver"
    if not triton.is_dir():
        raise NoServerError(f"{python} has no nvidia-pytriton")
    backends = repository.parent / "backends"
    backend = backends / "python"
    backend.mkdir(parents=True, exist_ok=True)
    stub = triton / "python_backend_stubs" / ".".join(version)
    for x in (*(triton / "backends" / "python").iterdir(), *stub.iterdir()):
        if x.is_file() and not (backend / x.name).exists():
            (backend / x.name).symlink_to(x)
    libraries = [f"{packages}/nvidia_pytriton.libs", library, os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(libraries).strip(":"),
        "PYTHONPATH": packages,
    }
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        *(f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"),
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name=atb{port}",
        "--backend-config=python,shm-default-byte-size=1048576",
    ]
    return command, environment


def split_cpus(wanted: str | None) -> tuple[str, str]:
    """Cores of the servers and of the load: by default all but the last, and the last."""
    mine = sorted(os.sched_getaffinity(0))
    if wanted is not None:
        servers = sorted(int(x) for x in wanted.split(","))
        left = [x for x in mine if x not in servers] or mine
        return wanted, str(left[-1])
    if len(mine) == 1:
        print("one core only: servers and load share it, and no figure is to be trusted", file=sys.stderr)
        return str(mine[0]), str(mine[0])
    return ",".join(map(str, mine[:-1])), str(mine[-1])
