"""Programs that the system tests start: those of this machine, and the contract suite."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from tests.harness import ROOT, wait_until

# Those quick tests that ask the service over HTTP alone, wherever it runs.
CONTRACT_SUITE = [f"tests/test_{name}.py" for name in ("smoke", "tasks", "access")]


def output_of(*command: str | Path, cwd: Path = ROOT, **options: Any) -> str:
    """Run a program; return what it printed, or fail with that."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@contextmanager
def running_program(
    command: list[str], is_up: Callable[[], object], seconds: float = 15, **options: Any
) -> Iterator[Path]:
    """Run a program until the end of the block, which begins when the program answers.

    Yield the file of what it says.
    """
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **options
        )

        def answers() -> object:
            assert process.poll() is None, Path(log.name).read_text()
            with suppress(httpx.TransportError, psycopg2.OperationalError):
                return is_up()

        try:
            wait_until(answers, f"{command[0]} answers", seconds)
            yield Path(log.name)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)


def run_contract_suite(**environment: str) -> int:
    """Run it with these variables set; return how many tests passed, or fail if one did not."""
    pytest = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q")
    said = output_of(*pytest, *CONTRACT_SUITE, env=os.environ | environment)
    assert "skipped" not in said, said
    return int(re.findall(r"(\d+) passed", said)[0])
