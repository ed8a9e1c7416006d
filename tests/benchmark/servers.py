"""The servers that are measured, each a uvicorn with one worker."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.harness import ROOT, Service, token

SERVICE = "backend.main:app"
TYPICAL = "typical:app"


@dataclass(frozen=True)
class Server:
    """One uvicorn, the database behind it, and the tokens that it is sent."""

    process: psutil.Process
    url: str
    database: str = ""  # its address
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
    """Start a server, and stop it."""
    quiet = ("--no-access-log", "--log-level", "warning")
    folder = folder if app == SERVICE else Path(__file__).parent
    with Service(*quiet, app=app, folder=folder, **environment) as service:
        service.wait_until_up()
        yield Server(psutil.Process(service.process.pid), service.url)
