"""Clones of the service, each with an embedded PostgreSQL, and their processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

from backend import embedded
from tests.harness import ROOT, Service, environment_of_service, wait_until

ODD_NAME = "it's (a) [b] & 100% {ü} $HOME;é"
STOPPED = embedded.GRACE + 6  # seconds until nothing may be left, on a busy machine


class Clone:
    """A copy of what git has of the service, whose .env names the embedded database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / ".postgres" / "data"
        shutil.copytree(
            ROOT / "backend", folder / "backend", ignore=shutil.ignore_patterns("__pycache__")
        )
        for file in (".env", "tests/user.py"):
            shutil.copy(ROOT / file, folder)

    def start(self, *options: str, prefix: tuple[str, ...] = (), **environment: str) -> Service:
        """Return its service, once it answers."""
        settings = {"NEON_DATABASE_URL": "embedded"} | environment
        return Service(*options, folder=self.folder, prefix=prefix, **settings).wait_until_up()

    def use(self, prefix: tuple[str, ...] = (), **environment: str) -> "subprocess.Popen[str]":
        """Start a process that uses its PostgreSQL, and nothing else of the service."""
        return subprocess.Popen(
            [*prefix, sys.executable, "user.py", str(self.folder / ".postgres")],
            cwd=self.folder,
            env=environment_of_service(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refusal(self, prefix: tuple[str, ...] = (), **environment: str) -> str:
        """Return the one line with which it refuses to start."""
        user = self.use(prefix, **environment)
        output, error = user.communicate(timeout=30)
        assert (user.returncode, output, error.count("\n")) == (1, "", 1), error
        return error

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, which run in its data folder, and its keepers."""
        place = str(self.folder)
        return [
            process
            for process in psutil.process_iter(["cwd", "cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and (
                place in str(process.info["cwd"])
                or place in " ".join(process.info["cmdline"] or [])
            )
        ]

    def server(self) -> psutil.Process:
        return psutil.Process(int((self.data / "postmaster.pid").read_text().split("\n")[0]))

    def wait_until_nothing_runs(self, seconds: float = STOPPED) -> None:
        wait_until(lambda: not self.processes(), f"nothing of {self.folder} runs", seconds)


def parameters_of(user: "subprocess.Popen[str]") -> dict[str, str]:
    """Return what a process that uses the PostgreSQL was given, which it prints when it has it."""
    assert user.stdout is not None
    assert user.stderr is not None
    line = user.stdout.readline()
    assert line, user.stderr.read()
    return dict(json.loads(line))
