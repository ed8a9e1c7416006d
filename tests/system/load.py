"""The load that runs while a fault happens: users who write and read, and know what they did."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.harness import Postgres, Service, token, wait_until

ANSWER_DUE = 5.5  # seconds: the 5 of the contract, and what a small machine adds while it is busy
POOL = 20  # connections of a worker, if nothing else is set
# The connections to a database but the one that asks.
SESSIONS = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
"""
# The database's own account: what becomes of each row, in the order in which it happened.
WITNESS = """
    CREATE TABLE witness (
        n bigserial, user_id text, title text, description text, completed boolean
    );
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO witness (user_id, title) VALUES (OLD.user_id, OLD.title);
        ELSE
            INSERT INTO witness (user_id, title, description, completed)
            VALUES (NEW.user_id, NEW.title, NEW.description, NEW.completed);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON tasks
        FOR EACH ROW EXECUTE FUNCTION note()
"""

# The description of a task, and whether it is completed; None for a task that is not there.
State = tuple[str | None, bool] | None


@dataclass
class Task:
    """A task as its user knows it; its title never changes, and tells it from every other.

    After a write without an answer its user writes to it no more. So that write is there once or
    not at all, and last.
    """

    title: str
    id: int = 0
    acknowledged: list[State] = field(default_factory=lambda: [None])
    unanswered: list[State] = field(default_factory=list)


def key_and_state(row: dict[str, Any]) -> tuple[tuple[str, str], State]:
    return (row["user_id"], row["title"]), (row["description"], row["completed"])


class Load:
    """Users who write and list in turns, as long as the `with` block lasts.

    Its end checks every promise.
    """

    def __init__(
        self, service: Service, database: Postgres, url: str, users: int = 12, workers: int = 1
    ) -> None:
        self.service = service
        self.database = database
        self.url = url
        self.workers = workers
        self.tasks: dict[str, dict[str, Task]] = {f"user-{n}": {} for n in range(users)}
        self.requests = 0
        self.failures: Counter[str] = Counter()
        # Beside the 503 of the contract, where the death of a process explains them.
        self.explained: set[str] = set()
        self.slowest = 0.0  # seconds
        self.broken: list[str] = []  # promises
        self.unanswered = 0  # writes
        self.done_all_the_same = 0  # those of them that the database has
        self.numbers = itertools.count()
        self.random = random.Random(1)
        self.stopping = False
        self.thread = threading.Thread(target=lambda: asyncio.run(self.work()), daemon=True)

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
            assert not self.broken, "\n".join(self.broken[:5])
            self.check_every_write()
            self.check_that_no_connection_is_stuck()
            output = self.service.output()
            assert "Traceback" not in output, output
            # asyncio says so of an exception that was lost: "never awaited", "never retrieved".
            assert "never" not in output, output

    def check_first_request(self) -> None:
        """Send a request; after a fault, even the first must succeed."""
        answer = self.service.request("GET", user="user-0")
        assert answer.status_code == 200, answer.text

    def check_every_write(self) -> None:
        done: dict[tuple[str, str], list[State]] = {}
        statement = "SELECT user_id, title, description, completed FROM witness ORDER BY n"
        for user, title, description, completed in self.database.execute(statement, url=self.url):
            state = None if completed is None else (description, completed)
            done.setdefault((user, title), []).append(state)
        for user, tasks in self.tasks.items():
            for task in tasks.values():
                found = done.pop((user, task.title), [])
                acknowledged = task.acknowledged[1:]
                # Equal step by step: no write twice, no toggle too many, nothing after a 204.
                assert found in (acknowledged, acknowledged + task.unanswered), (task, found)
                self.unanswered += len(task.unanswered)
                self.done_all_the_same += found != acknowledged
        assert not done, f"tasks that nobody asked for: {done}"

    def check_that_no_connection_is_stuck(self) -> None:
        answers = ask_at_once(self.service, 2 * POOL)
        assert {str(answer.status_code) for answer in answers} <= {"200"} | self.explained
        statement = f"SELECT count(*), bool_and(state = 'idle') {SESSIONS}"
        number, _ = self.database.execute(statement, url=self.url)[0]
        assert number <= POOL * self.workers
        wait_until(lambda: self.database.execute(statement, url=self.url)[0][1], "all are idle")

    async def work(self) -> None:
        await asyncio.gather(*(self.work_as(user) for user in self.tasks))

    async def work_as(self, user: str) -> None:
        headers = {"Authorization": f"Bearer {token(user)}"}
        async with httpx.AsyncClient(
            base_url=self.service.url, headers=headers, timeout=15, verify=False, trust_env=False
        ) as client:
            while not self.stopping:
                await self.write(client, user)
                await self.list(client, user)

    async def write(self, client: httpx.AsyncClient, user: str) -> None:
        """Make a task, or toggle, change or delete one of which the user knows the state."""
        tasks = self.tasks[user]
        known = [task for task in tasks.values() if task.acknowledged[-1] and not task.unanswered]
        methods = ["POST", "PATCH", "PATCH", "PUT", "DELETE"] if len(known) > 2 else ["POST"]
        method = self.random.choice(methods)
        number = next(self.numbers)
        if method == "POST":
            task = tasks.setdefault(f"{user}, {number}", Task(f"{user}, {number}"))
        else:
            task = self.random.choice(known)
        description, completed = task.acknowledged[-1] or (None, False)
        path, body, wanted = {
            "POST": ("", {"title": task.title}, (None, False)),
            "PATCH": (f"/{task.id}/complete", None, (description, not completed)),
            "PUT": (f"/{task.id}", {"description": str(number)}, (str(number), completed)),
            "DELETE": (f"/{task.id}", None, None),
        }[method]
        task.unanswered = [wanted]
        if answer := await self.ask(client, user, method, path, body):
            if wanted:
                row = answer.json()
                task.id = row["id"]
                if key_and_state(row) != ((user, task.title), wanted):
                    self.broken.append(f"{method} of {task} was answered {row}")
            task.acknowledged.append(wanted)
            task.unanswered = []

    async def list(self, client: httpx.AsyncClient, user: str) -> None:
        if answer := await self.ask(client, user, "GET"):
            rows = dict(key_and_state(row) for row in answer.json())
            for task in self.tasks[user].values():
                may_be = [task.acknowledged[-1], *task.unanswered]
                if rows.pop((user, task.title), None) not in may_be:
                    self.broken.append(f"{task} was shown otherwise: {answer.text}")
            if rows:
                self.broken.append(f"{user} was shown what is not theirs: {rows}")

    async def ask(
        self, client: httpx.AsyncClient, user: str, method: str, path: str = "", body: Any = None
    ) -> httpx.Response | None:
        """Return the answer, or None for one that is a failure or was lost."""
        began = time.monotonic()
        try:
            answer = await client.request(method, f"/api/{user}/tasks{path}", json=body)
        except httpx.TransportError:
            answer = httpx.Response(0, text="connection lost")
        seconds = time.monotonic() - began
        self.requests += 1
        self.slowest = max(self.slowest, seconds)
        if answer.is_success:
            return answer
        failure = str(answer.status_code or answer.text)
        self.failures[failure] += 1
        is_explained = failure in self.explained or is_unavailable(answer)
        if not is_explained or seconds > ANSWER_DUE:
            self.broken.append(f"{method} {path}: {failure} {answer.text} after {seconds:.1f} s")
        await asyncio.sleep(0.05)
        return None

    def row(self, fault: str) -> str:
        failures = ", ".join(f"{failure}: {n}" for failure, n in self.failures.items())
        done = f"{self.unanswered}, of which {self.done_all_the_same} done"
        unanswered = done if self.unanswered else "none"
        return row(fault, self.requests, failures, unanswered, f"{self.slowest:.2f} s")


def row(
    fault: str, requests: int, failures: str = "", unanswered: str = "none", slowest: str = ""
) -> str:
    """Return a row of the table of faults."""
    return f"| {fault} | {requests:,} | {failures or 'none'} | {unanswered} | {slowest} |"


def ask_at_once(service: Service, users: int) -> list[httpx.Response]:
    """Read the lists of so many users at the same time."""
    with ThreadPoolExecutor(users) as threads:
        return list(threads.map(lambda n: service.request("GET", user=f"user-{n}"), range(users)))


def is_unavailable(answer: httpx.Response) -> bool:
    """Return whether this is the 503 of the contract."""
    told = answer.status_code == 503 and answer.headers.get("Retry-After", "").isdecimal()
    return told and list(answer.json()) == ["detail"]
