"""The service where it was installed, away from this clone."""

import subprocess
import tempfile
from pathlib import Path

import httpx

from tests.harness import FRONTEND, SECRET, TRUSTED, Service, free_port


def settings(database: str, **more: str) -> dict[str, str]:
    """Return what a host sets, with a free port of this machine."""
    return {
        "NEON_DATABASE_URL": database,
        "BETTER_AUTH_SECRET": SECRET,
        "BETTER_AUTH_URL": FRONTEND,
        "BETTER_AUTH_TRUSTED_ORIGINS": TRUSTED,
        "PORT": str(free_port()),
        **more,
    }


class InstalledService(Service):
    """The service, started by this command in this directory, with this environment and no more."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{environment['PORT']}"
        self.database = environment["NEON_DATABASE_URL"]
        self.log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=self.log, stderr=subprocess.STDOUT
        )
        self.client = httpx.Client(base_url=self.url, timeout=15)
