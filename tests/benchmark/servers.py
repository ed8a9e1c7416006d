"""The servers that are measured, each a uvicorn, and the keys that they ask for."""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jwt
import psutil  # type: ignore[import-untyped] # it ships no types
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.harness import FRONTEND, ROOT, environment_of_service, free_port, token

SERVICE = "backend.main:app"
TYPICAL = "typical:app"
TOKEN_ONLY = "floors:token"
EMPTY_ROUTE = "floors:empty"

Sign = Callable[..., str]  # a token for a user, with further claims


@dataclass(frozen=True)
class Server:
    """One uvicorn with its workers, the database behind it, and the tokens that it is sent."""

    process: psutil.Popen
    url: str
    database: str = ""  # its address; empty where there is none
    size: int = 100  # tasks of a user
    sign: Sign = token
    uses_tokens_once: bool = False

    def cpu(self) -> float:
        """Return the seconds of CPU it has used, once it is at rest."""
        before = -1.0
        used = cpu_of(self.process)
        for _ in range(100):
            if used == before:
                break
            time.sleep(0.05)
            before = used
            used = cpu_of(self.process)
        return used

    def forget_peak(self) -> None:
        for process in tree(self.process):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak(self) -> float:
        """Return the most memory it has held since `forget_peak`, in MiB."""
        kilobytes = 0
        for process in tree(self.process):
            status = Path(f"/proc/{process.pid}/status").read_text()
            _, _, after = status.partition("VmHWM:")
            kilobytes += int(after.split()[0])
        return kilobytes / 1024


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants, or nothing if it has ended."""
    if not process.is_running():
        return []
    return [process, *process.children(recursive=True)]


def cpu_of(root: psutil.Process) -> float:
    """Return the seconds of CPU, user and system, of a process and its descendants.

    Children that ended count too.
    """
    own = root.cpu_times()
    seconds = own.children_user + own.children_system
    for process in tree(root):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


class Keys(ThreadingHTTPServer):
    """The published key of a frontend that signs EdDSA."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        key = public | {"kid": "benchmark", "alg": "EdDSA"}
        self.published = json.dumps({"keys": [key]}).encode()
        super().__init__(("127.0.0.1", 0), KeysHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sign(self, user: str, **claims: str) -> str:
        return token(
            user,
            **claims,
            key=self.key,
            algorithm="EdDSA",
            kid="benchmark",
            iss=FRONTEND,
            aud=FRONTEND,
        )


class KeysHandler(BaseHTTPRequestHandler):
    server: Keys

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.published)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving_keys() -> Iterator[Keys]:
    with Keys() as keys:
        threading.Thread(target=keys.serve_forever, daemon=True).start()
        yield keys
        keys.shutdown()


@contextmanager
def running(app: str, *options: str, cwd: Path = ROOT, **environment: str) -> Iterator[Server]:
    """Start a uvicorn, wait for its first answer, and stop it."""
    port = str(free_port())
    command = [sys.executable, "-m", "uvicorn", app, "--port", port]
    quiet = ["--no-access-log", "--log-level", "warning"]
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(
            [*command, *quiet, *options],
            cwd=cwd if app == SERVICE else Path(__file__).parent,
            env=environment_of_service(**environment),
            stdout=log,
            stderr=log,
        )
        server = Server(process, f"http://127.0.0.1:{port}")
        try:
            if not answers(server):
                log.seek(0)
                sys.exit(f"{app} does not start: {log.read()}")
            yield server
        finally:
            stop(process)


def answers(server: Server) -> bool:
    """Return whether a server answers anything within 30 seconds."""
    due = time.monotonic() + 30
    while time.monotonic() < due and server.process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(f"{server.url}/health", timeout=15)
            return True
        time.sleep(0.01)
    return False


def stop(process: psutil.Popen) -> None:
    processes = tree(process)
    process.terminate()
    _, alive = psutil.wait_procs(processes, 20)
    for survivor in alive:
        survivor.kill()
