"""What the tests start: a PostgreSQL, the service as its own process, a proxy between the two, and tokens."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg2

from backend import embedded
from backend.embedded import free_port

ROOT = Path(__file__).resolve().parent.parent
SECRET = "a secret of the tests, of more than 32 bytes"
FRONTEND = "http://localhost:3000"
TRUSTED = "https://App.example.com/, http://[::1]:8080,,"


def token(
    user: str = "ada",
    *,
    key: Any = SECRET,
    algorithm: str = "HS256",
    kid: str | None = None,
    **claims: Any,
) -> str:
    """Return a token; a claim given as None is left out, and `seconds` says how long it is valid."""
    payload = {"sub": user, "exp": int(time.time()) + claims.pop("seconds", 3600)} | claims
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)


class Postgres:
    """A PostgreSQL on a TCP port of 127.0.0.1 that trusts every client, with a new and empty data folder.

    It may lose what it wrote when the machine crashes, which no test does; `durable` leaves out that shortcut.
    """

    def __init__(self, directory: str, durable: bool = False) -> None:
        self.port = free_port()
        self.data = Path(directory) / "data"
        shortcuts = [] if durable else ["--no-sync", "--set=fsync=off"]
        embedded.initialize(self.data, "--auth=trust", *shortcuts)
        self.url = self.database("postgres")

    def database(self, name: str) -> str:
        """Return the address of a database of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        embedded.launch(self.data, self.port)

    def stop(self, mode: str = "fast") -> None:
        """Stop it; mode "immediate" is a crash, after which it must recover."""
        embedded.run(self.data, "pg_ctl", "stop", f"--mode={mode}")

    def create_database(self) -> str:
        """Return the address of a new, empty database."""
        name = f"test_{time.monotonic_ns()}"
        self.execute(f"CREATE DATABASE {name}")
        return self.database(name)

    def execute(
        self, statement: str, *parameters: Any, url: str = "", **named: Any
    ) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(url or self.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, named or parameters)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows


@contextmanager
def postgres(durable: bool = False) -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        server = Postgres(directory, durable)
        server.start()
        try:
            yield server
        finally:
            with suppress(embedded.PostgresError):
                server.stop("immediate")


class Service:
    """The service as its own uvicorn process, in a session of its own as in a terminal of its own."""

    def __init__(
        self,
        *options: str,
        program: tuple[str, ...] = ("-m", "uvicorn"),
        folder: Path = ROOT,
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = environment.get("NEON_DATABASE_URL", "")
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                *program,
                "backend.main:app",
                "--port",
                str(self.port),
                *options,
            ],
            cwd=folder,
            start_new_session=True,
            env=environment_of_service(**environment),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.client = httpx.Client(base_url=self.url, timeout=15)

    def wait_until_up(self) -> "Service":
        for _ in range(1000):
            with suppress(httpx.TransportError):
                self.client.get("/health")
                return self
            assert self.process.poll() is None, self.output()
            time.sleep(0.02)
        raise AssertionError(f"the service does not answer: {self.output()}")

    def output(self) -> str:
        return Path(self.log.name).read_text()

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.log.close()

    def request(
        self, method: str, path: str = "", user: str = "ada", **options: Any
    ) -> httpx.Response:
        """Send a request for a user's tasks with that user's token; `path` is what follows /tasks."""
        headers = {"Authorization": f"Bearer {token(user)}"} | options.pop("headers", {})
        return self.client.request(method, f"/api/{user}/tasks{path}", headers=headers, **options)


def environment_of_service(**environment: str) -> dict[str, str]:
    """Return this process's environment with the settings of the service replaced by the tests' own."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BETTER_AUTH_", "DATABASE_", "NEON_"))
    }
    return inherited | {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": FRONTEND} | environment


@contextmanager
def service(*options: str, **environment: str) -> Iterator[Service]:
    running = Service(*options, **environment)
    try:
        yield running.wait_until_up()
    finally:
        running.stop()


class Proxy:
    """A TCP proxy on 127.0.0.1 to `target`, run by a thread of its own: it counts, delays, cuts, and falls silent."""

    def __init__(self, target: int, delay: float = 0) -> None:
        self.target, self.delay, self.port = target, delay, free_port()
        self.round_trips = 0  # times that a client spoke, and not again before it was answered
        self.connections = 0  # ever accepted
        self.silent = False  # accept, and forward nothing
        self.answers_lost = False  # forward what the client says, and drop the answers
        self.writers: set[asyncio.StreamWriter] = set()
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> "Proxy":
        self.thread.start()
        self.started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(5)

    def cut(self, reset: bool = False) -> None:
        """Close every connection: with FIN, or with RST."""

        def close() -> None:
            for writer in list(self.writers):
                if reset:
                    linger = b"\1\0\0\0\0\0\0\0"
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                writer.transport.abort() if reset else writer.close()

        self.loop.call_soon_threadsafe(close)

    async def _run(self) -> None:
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.started.set()
        await self.stopped.wait()
        server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(to_client)
        server, to_server = None, None
        with suppress(OSError):
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        if server is None or to_server is None:
            to_client.close()
            return
        self.writers.add(to_server)
        answered = [True]

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, asking: bool
        ) -> None:
            with suppress(OSError):
                while chunk := await source.read(65536):
                    self.round_trips += asking and answered[0]
                    answered[0] = not asking
                    if self.delay:
                        await asyncio.sleep(self.delay / 2)
                    if not self.silent and not (self.answers_lost and not asking):
                        sink.write(chunk)
                        await sink.drain()
            sink.close()

        await asyncio.gather(pump(client, to_server, True), pump(server, to_client, False))
        self.writers -= {to_client, to_server}
