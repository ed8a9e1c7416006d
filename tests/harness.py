"""What the tests start: a PostgreSQL, the service, and a proxy between the two; and tokens."""

import asyncio
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import jwt
import psycopg2

from backend import embedded
from backend.embedded import free_port
from tests import COPY, FRONTEND, ROOT, SECRET, environment_of_service

__all__ = ["FRONTEND", "ROOT", "SECRET", "environment_of_service", "free_port"]

TRUSTED = "https://App.example.com/, http://[::1]:8080,,"
PASSWORD = "hunter2"
NOWHERE = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"  # where nobody listens
CHECK = ("-m", "backend.main")
MAX_TASK_ID = 2**53 - 1  # what JavaScript counts exactly


def token(
    user: str = "ada",
    *,
    key: Any = SECRET,
    algorithm: str = "HS256",
    kid: str | None = None,
    **claims: Any,
) -> str:
    """Return a token that is valid for `seconds`, without the claims that are None."""
    payload = {"sub": user, "exp": int(time.time()) + claims.pop("seconds", 3600)} | claims
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)


class Postgres:
    """A new PostgreSQL on a TCP port of 127.0.0.1 that trusts every client.

    It may lose what it wrote when the machine crashes, unless it is `durable`.
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
        """Run a statement in the database at `url`, and return its rows."""
        with closing(psycopg2.connect(url or self.url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement, named or parameters)
            return cursor.fetchall() if cursor.description else []


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = 15) -> None:
    """Ask again and again; fail if it has not come about within these seconds."""
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@contextmanager
def postgres(durable: bool = False) -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        server = Postgres(directory, durable)
        try:
            server.start()
            yield server
        finally:
            with suppress(RuntimeError):
                server.stop("immediate")


def client_of(url: str, token: str = "") -> httpx.Client:
    """Return a client that loads no certificates, since no service here has one."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    return httpx.Client(base_url=url, headers=headers, timeout=15, verify=False, trust_env=False)


class Service:
    """The service as its own process, in a session of its own as in a terminal of its own.

    `with` stops it at the end, however that comes.
    """

    def __init__(
        self,
        *options: str,
        app: str = "backend.main:app",
        folder: Path = COPY,
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = environment.get("NEON_DATABASE_URL", "")
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by stop()
        uvicorn = ("-m", "uvicorn", app, "--port", str(self.port))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *uvicorn, *options],
            cwd=folder,
            start_new_session=True,
            env=environment_of_service(**environment),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.client = client_of(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_up(self) -> Self:
        """Return this service when it answers; stop it and fail if it does not."""
        for _ in range(1000):
            with suppress(httpx.TransportError):
                self.client.get("/health")
                return self
            assert self.process.poll() is None, self.output()
            time.sleep(0.02)
        output = self.output()
        self.stop()
        raise AssertionError(f"the service does not answer: {output}")

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
        self, method: str, path: str = "", user: str = "ada", *, bearer: str = "", **options: Any
    ) -> httpx.Response:
        """Send a request with the user's token, or another, to the user's tasks.

        `path` follows /tasks.
        """
        authorization = f"Bearer {bearer or token(user)}".encode()
        headers = {"Authorization": authorization} | options.pop("headers", {})
        return self.client.request(method, f"/api/{user}/tasks{path}", headers=headers, **options)


@contextmanager
def service(*options: str, **environment: str) -> Iterator[Service]:
    with Service(*options, **environment) as running:
        yield running.wait_until_up()


@contextmanager
def started(*command: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a Python program of the service; it is gone at the end of `with`."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=COPY,
        env=environment_of_service(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Proxy:
    """A TCP proxy on 127.0.0.1, run by a thread: it counts, delays, cuts, and forgets."""

    def __init__(self, target: int, delay: float = 0) -> None:
        self.target = target  # a port of 127.0.0.1
        self.delay = delay  # seconds of a round trip
        self.port = free_port()
        self.round_trips = 0  # times that a client spoke, and not again before it was answered
        self.connections = 0  # ever accepted
        self.silent = False  # accept, and forward nothing
        self.answers_lost = False  # forward what the client says, and drop the answers
        self.forgotten: set[asyncio.StreamWriter] = set()
        self.resets_forgotten = True
        self.writers: set[asyncio.StreamWriter] = set()
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def address(self, url: str) -> str:
        """Return the address of a database through here."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def __enter__(self) -> Self:
        self.thread.start()
        self.started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(5)

    def cut(self, reset: bool = False) -> None:
        """Close every connection: with FIN, or with RST."""
        self.loop.call_soon_threadsafe(self._close_all, reset)

    def _close_all(self, reset: bool) -> None:
        for writer in list(self.writers):
            if reset:
                end_with_reset(writer)
            writer.close()

    def forget(self, then_reset: bool = True) -> None:
        """Forget every connection, as a network does: who speaks on one gets RST, or no answer."""
        self.forgotten = set(self.writers)
        self.resets_forgotten = then_reset
        for writer in self.forgotten:
            end_with_reset(writer)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.started.set()
        await self.stopped.wait()
        server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(to_client)
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self.writers.discard(to_client)
            to_client.close()
            return
        self.writers.add(to_server)
        answered = True

        async def forward_questions() -> None:
            nonlocal answered
            while chunk := await client.read(65536):
                if answered:
                    self.round_trips += 1
                answered = False
                await self._forward(chunk, to_server)

        async def forward_answers() -> None:
            nonlocal answered
            while chunk := await server.read(65536):
                answered = True
                if not self.answers_lost:
                    await self._forward(chunk, to_client)

        async def until_closed(
            forward: Callable[[], Awaitable[None]], sink: asyncio.StreamWriter
        ) -> None:
            with suppress(OSError):
                await forward()
            sink.close()

        await asyncio.gather(
            until_closed(forward_questions, to_server), until_closed(forward_answers, to_client)
        )
        self.writers -= {to_client, to_server}

    async def _forward(self, chunk: bytes, sink: asyncio.StreamWriter) -> None:
        if self.delay:
            await asyncio.sleep(self.delay / 2)
        if sink in self.forgotten:
            if self.resets_forgotten:
                raise ConnectionResetError
        elif not self.silent:
            sink.write(chunk)
            await sink.drain()


def end_with_reset(writer: asyncio.StreamWriter) -> None:
    """Let a connection end with RST when it is closed."""
    linger_for_no_time = struct.pack("ii", 1, 0)
    client = writer.get_extra_info("socket")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
