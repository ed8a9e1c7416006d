"""The load that runs while a fault happens: users who write and read, and know what they did."""

import asyncio
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests.harness import Postgres, Proxy, Service, token

ANSWER_DUE = 5.5  # seconds: the 5 of the contract, and what a small machine adds while it is busy
POOL = 20  # connections of a worker, if nothing else is set
KEYS = {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}

# The database's own account: what becomes of each row, in the order in which it happened.
WITNESS = """
CREATE TABLE witness (n bigserial, user_id text, title text, description text, completed boolean);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN INSERT INTO witness (user_id, title) VALUES (OLD.user_id, OLD.title);
  ELSE INSERT INTO witness (user_id, title, description, completed)
    VALUES (NEW.user_id, NEW.title, NEW.description, NEW.completed);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION note()
"""


# The connections to a database but the one that asks.
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"
OTHERS += " AND backend_type = 'client backend'"


class State(NamedTuple):
    """What may become of a task; its title never changes, and tells it from every other."""

    description: str | None
    completed: bool


@dataclass
class Task:
    """A task as its user knows it: each acknowledged state, and the one that was asked for since.

    Before it is created and after it is deleted its state is None. After a write without an answer
    its user writes to it no more, so that write is there once or not at all, and last.
    """

    user: str
    title: str
    id: int | None = None
    states: list[State | None] = field(default_factory=lambda: [None])
    asked: list[State | None] = field(default_factory=list)

    def differs(self, row: dict[str, Any]) -> bool:
        """Return whether a row cannot be this task."""
        moments = [row["created_at"].removesuffix("Z"), row["updated_at"].removesuffix("Z")]
        return (
            row.keys() != KEYS
            or (row["user_id"], row["title"]) != (self.user, self.title)
            or self.id not in (None, row["id"])
            or not row["updated_at"].endswith("Z")
            or moments != sorted(moments)
        )


class Answer(NamedTuple):
    status_code: int
    headers: dict[str, str]  # with names in lower case
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """One user's browser, on a connection of its own.

    httpx would need more of the processors than the service does.
    """

    def __init__(self, service: Service, user: str) -> None:
        self.port = service.port
        self.user = user
        self.token = token(user)
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str = "", body: dict[str, Any] | None = None
    ) -> Answer:
        """Return the answer; raise OSError or IncompleteReadError if the connection is lost."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} /api/{quote(self.user)}/tasks{path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(content)}\r\n"
        )
        if body is not None:
            head += "Content-Type: application/json\r\n"
        stream, self.stream = self.stream, None
        reader, writer = stream or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{head}\r\n".encode() + content)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {
                name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
            }
            text = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
        except BaseException:
            writer.close()
            raise
        self.stream = reader, writer
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(status.split()[1]), headers, text)

    def close(self) -> None:
        if self.stream:
            self.stream[1].close()
            self.stream = None


class Load:
    """Users who work as long as the `with` block lasts, whose end checks every promise.

    Each user writes, and reads at the same time if `readers`. Otherwise each takes turns, and knows
    every answer in full.
    """

    def __init__(
        self,
        service: Service,
        database: Postgres,
        url: str,
        *,
        users: int = 8,
        readers: bool = True,
        workers: int = 1,
    ) -> None:
        self.service = service
        self.database = database
        self.url = url
        self.readers = readers
        self.workers = workers
        self.tasks: dict[str, dict[str, Task]] = {f"user {n}": {} for n in range(users)}
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0  # seconds
        self.broken: list[str] = []  # promises
        # Connections to the service, that is. Only the death of a worker explains it.
        self.may_lose_connections = False
        # By a proxy in front. Only the death of a service explains it.
        self.may_be_told_502 = False
        self.doubtful = 0  # writes without an answer
        self.done_all_the_same = 0  # those of them that the table has
        self.count = itertools.count()
        self.random = random.Random(1)
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.stopping = False

    def __enter__(self) -> Self:
        self.database.execute(WITNESS, url=self.url)
        self.thread.start()
        wait_until(lambda: self.requests > 10 * len(self.tasks), "the load runs")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stopping = True
        self.thread.join(15)
        if kind is None:
            assert not self.thread.is_alive(), "the load does not end"
            self.check()

    def first_request(self) -> None:
        """Send one request; after a fault, even the first must succeed."""
        answer = self.service.request("GET", user="user 0")
        assert answer.status_code == 200, answer.text

    def check(self) -> None:
        """Compare what was told with what is there; nothing may be left open, held or hidden."""
        assert not self.broken, "\n".join(self.broken[:5])
        self._check_every_write()
        self._check_that_nothing_is_stuck()
        output = self.service.output()
        assert "Traceback" not in output, output[output.index("Traceback") :][:4000]
        # "Never awaited", or "never retrieved", are asyncio's words for an exception that was lost.
        assert "never" not in output, output

    def _check_every_write(self) -> None:
        changes: dict[str, list[State | None]] = {}
        statement = "SELECT user_id, title, description, completed FROM {} WHERE user_id ~ '^user '"
        witnessed = self.database.execute(f"{statement.format('witness')} ORDER BY n", url=self.url)
        for user, title, description, completed in witnessed:
            assert title in self.tasks[user], f"{user} has a task of another: {title}"
            state = None if completed is None else State(description, completed)
            changes.setdefault(title, []).append(state)
        stored = self.database.execute(statement.format("tasks"), url=self.url)
        rows = {title: State(description, completed) for _, title, description, completed in stored}
        for tasks in self.tasks.values():
            for task in tasks.values():
                # Equal step by step: no write twice, no toggle too many, nothing after a 204.
                found = changes.get(task.title, [])
                acknowledged = task.states[1:]
                expected = (acknowledged, acknowledged + task.asked)
                assert found in expected, f"told {task}, done {found}"
                assert rows.pop(task.title, None) == [None, *found][-1], task
                self.doubtful += len(task.asked)
                self.done_all_the_same += found != acknowledged
        assert rows == {}, "tasks that nobody asked for"

    def _check_that_nothing_is_stuck(self) -> None:
        async def ask() -> set[int]:
            clients = [Client(self.service, user) for user in self.tasks for _ in range(POOL // 2)]
            answers = await asyncio.gather(*(client.request("GET") for client in clients))
            for client in clients:
                client.close()
            return {answer.status_code for answer in answers}

        assert asyncio.run(ask()) == {200}
        sessions = self.sessions()
        assert len(sessions) <= POOL * self.workers, sessions
        wait_until(lambda: set(self.sessions()) == {"idle"}, "every connection is idle")

    def sessions(self) -> list[str]:
        """Return the state of each connection to the database but our own."""
        statement = f"SELECT state FROM pg_stat_activity WHERE {OTHERS}"
        return [state for (state,) in self.database.execute(statement, url=self.url)]

    async def _run(self) -> None:
        await asyncio.gather(*(self._work(user) for user in self.tasks))

    async def _work(self, user: str) -> None:
        clients = [Client(self.service, user), Client(self.service, user)]
        await asyncio.gather(
            self._write(clients[0]), *([self._read(clients[1])] if self.readers else [])
        )
        for client in clients:
            client.close()

    async def _write(self, client: Client) -> None:
        while not self.stopping:
            settled = [
                task
                for task in self.tasks[client.user].values()
                if task.states[-1] and not task.asked
            ]
            task = self.random.choice(settled) if settled else None
            state = task and task.states[-1]
            share = self.random.random()
            if not task or not state or share < 0.2:
                await self._create(client)
            elif share < 0.55:
                await self._change(
                    client, task, "PATCH", "/complete", completed=not state.completed
                )
            elif share < 0.7:
                wanted = self.random.random() < 0.5
                await self._change(
                    client, task, "PATCH", "/complete", {"completed": wanted}, completed=wanted
                )
            elif share < 0.85 or len(settled) < 3:
                text = f"change {next(self.count)}"
                await self._change(client, task, "PUT", "", {"description": text}, description=text)
            else:
                await self._delete(client, task)
            if not self.readers:
                await self._list(client)
            await asyncio.sleep(0.01)

    async def _read(self, client: Client) -> None:
        while not self.stopping:
            await self._list(client)
            other = self.random.choice(list(self.tasks))
            if known := [task for task in self.tasks[other].values() if task.id]:
                task = self.random.choice(known)
                if other == client.user:
                    await self._read_one(client, task)
                else:
                    await self._ask(client, "GET", f"/{task.id}", {404})
            await asyncio.sleep(0.02)

    async def _create(self, client: Client) -> None:
        title = f"{client.user}, task {next(self.count)}"
        task = Task(client.user, title, asked=[State("as made", completed=False)])
        self.tasks[client.user][title] = task
        if answer := await self._ask(
            client, "POST", "", {201}, {"title": title, "description": "as made"}
        ):
            self._acknowledge(task, answer)

    async def _change(
        self,
        client: Client,
        task: Task,
        method: str,
        suffix: str,
        body: dict[str, Any] | None = None,
        **wanted: Any,
    ) -> None:
        state = task.states[-1]
        assert state
        task.asked = [state._replace(**wanted)]
        if answer := await self._ask(client, method, f"/{task.id}{suffix}", {200}, body):
            self._acknowledge(task, answer)

    async def _delete(self, client: Client, task: Task) -> None:
        task.asked = [None]
        if await self._ask(client, "DELETE", f"/{task.id}", {204}):
            task.states, task.asked = [*task.states, None], []
            await self._read_one(client, task)

    def _acknowledge(self, task: Task, answer: Answer) -> None:
        row = answer.json()
        task.id = task.id or row["id"]
        state = State(row["description"], row["completed"])
        if task.differs(row) or [state] != task.asked:
            self.broken.append(f"asked for {task}, told {row}")
        task.states, task.asked = [*task.states, state], []

    async def _read_one(self, client: Client, task: Task) -> None:
        seen = len(task.states)
        if answer := await self._ask(client, "GET", f"/{task.id}", {200, 404}):
            self._compare(task, seen, answer.json() if answer.status_code == 200 else None)

    async def _list(self, client: Client) -> None:
        tasks = self.tasks[client.user]
        seen = {title: len(task.states) for title, task in tasks.items()}
        answer = await self._ask(client, "GET", "", {200})
        if not answer:
            return
        rows = answer.json()
        ids = [row["id"] for row in rows]
        if ids != sorted(ids, reverse=True):
            self.broken.append(f"not the newest first: {rows}")
        listed = {row["title"]: row for row in rows}
        if len(listed) < len(rows) or listed.keys() - tasks.keys():
            self.broken.append(f"{client.user} was shown a task twice, or of another: {rows}")
        for title, task in tasks.items():
            self._compare(task, seen.get(title, 1), listed.get(title))

    def _compare(self, task: Task, seen: int, row: dict[str, Any] | None) -> None:
        """Compare with what the task was since its `seen`-th state was known, or may be by now."""
        state = row and State(row["description"], row["completed"])
        if (row and task.differs(row)) or state not in task.states[seen - 1 :] + task.asked:
            self.broken.append(f"{task} was shown as {row}")

    async def _ask(
        self,
        client: Client,
        method: str,
        suffix: str,
        expected: set[int],
        body: dict[str, Any] | None = None,
    ) -> Answer | None:
        """Return the answer, or None for one that says 503 or was lost."""
        began = time.monotonic()
        answer = None
        try:
            answer = await asyncio.wait_for(client.request(method, suffix, body), 15)
        except (OSError, EOFError, TimeoutError) as error:
            self.failures["connection lost"] += 1
            if not self.may_lose_connections:
                self.broken.append(f"{method} {suffix}: {error!r}")
        seconds = time.monotonic() - began
        self.requests += 1
        self.slowest = max(self.slowest, seconds)
        if seconds > ANSWER_DUE:
            self.broken.append(f"{method} {suffix} took {seconds:.1f} s")
        if answer and answer.status_code in expected:
            return answer
        if answer:
            self.failures[str(answer.status_code)] += 1
            explained = self.may_be_told_502 and answer.status_code == 502
            if not explained and not is_unavailable(answer):
                self.broken.append(
                    f"{method} {suffix}: {answer.status_code} {answer.headers} {answer.text}"
                )
        await asyncio.sleep(0.05)
        return None


def path(user: str) -> str:
    return f"/api/{user}/tasks"


_tokens: dict[str, str] = {}


def headers(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {_tokens.setdefault(user, token(user))}"}


def is_unavailable(answer: Answer | httpx.Response) -> bool:
    """Return whether this is the 503 of the contract."""
    if answer.status_code != 503 or not answer.headers.get("retry-after", "").isdecimal():
        return False
    problem = answer.json()
    return problem.keys() == {"detail"} and isinstance(problem["detail"], str)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def workers_of(service: Service) -> list[psutil.Process]:
    """Return the processes that serve."""
    children = psutil.Process(service.process.pid).children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [
        child for child in alive if "spawn_main" in " ".join(child.cmdline())
    ]  # not multiprocessing's tracker


class LateProxy(Proxy):
    """A proxy that lets each new connection wait, as Neon does while a compute starts."""

    late = 0.0  # seconds

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(self.late)
            await super()._serve(client, to_client)
        to_client.close()

    def settle(self) -> None:
        """Return when what was asked of the proxy has happened."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), self.loop).result(5)


class Figures:
    """The lines of the table, one for each fault."""

    def __init__(self) -> None:
        self.lines = [
            "| fault | requests | failures | writes without an answer | slowest answer |",
            "|---|--:|---|---|--:|",
        ]

    def add(self, fault: str, load: Load) -> None:
        doubtful = (
            f"{load.doubtful}, of which {load.done_all_the_same} done" if load.doubtful else "none"
        )
        self.add_row(fault, load.requests, load.failures, doubtful, f"{load.slowest:.2f} s")

    def add_row(
        self,
        fault: str,
        requests: int,
        failures: Counter[str] | None = None,
        doubtful: str = "none",
        slowest: str = "",
    ) -> None:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in (failures or {}).items()) or "none"
        self.lines.append(f"| {fault} | {requests:,} | {kinds} | {doubtful} | {slowest} |")


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Collect a line for each fault; print them at the end, and to the file of FAULTS_TABLE."""
    figures = Figures()
    yield figures
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("", *figures.lines, sep="\n")
    if file := os.environ.get("FAULTS_TABLE"):
        with Path(file).open("a") as table:
            table.writelines(f"{line}\n" for line in figures.lines[2:])
