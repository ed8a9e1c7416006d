"""The servers that are measured, each a uvicorn with one worker."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped] # it ships no types

from tests.harness import ROOT, environment_of_service, free_port, token

SERVICE = "backend.main:app"
TYPICAL = "typical:app"
TOKEN_ONLY = "floor:app"


@dataclass(frozen=True)
class Server:
    """One uvicorn, the database behind it, and the tokens that it is sent."""

    process: psutil.Popen
    url: str
    database: str = ""  # its address; empty where there is none
    sign: Callable[..., str] = token  # for a user, with further claims
    uses_tokens_once: bool = False

    def cpu(self) -> float:
        """Return the seconds of CPU it has used, once it is at rest."""
        before, used = -1.0, cpu_of(self.process)
        while used != before:
            time.sleep(0.05)
            before, used = used, cpu_of(self.process)
        return used


def cpu_of(root: psutil.Process) -> float:
    """Return the seconds of CPU, user and system, of a process and its descendants.

    Children that ended count too.
    """
    own = root.cpu_times()
    seconds = own.children_user + own.children_system
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


@contextmanager
def running(app: str, folder: Path = ROOT, **environment: str) -> Iterator[Server]:
    """Start a uvicorn, wait for its first answer, and stop it."""
    port = str(free_port())
    command = [sys.executable, "-m", "uvicorn", app, "--port", port]
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(
            [*command, "--no-access-log", "--log-level", "warning"],
            cwd=folder if app == SERVICE else Path(__file__).parent,
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
            process.terminate()
            _, alive = psutil.wait_procs([process], 20)
            for survivor in alive:
                survivor.kill()


def answers(server: Server) -> bool:
    """Return whether a server answers anything within 30 seconds."""
    due = time.monotonic() + 30
    while time.monotonic() < due and server.process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(f"{server.url}/health", timeout=15)
            return True
        time.sleep(0.01)
    return False
