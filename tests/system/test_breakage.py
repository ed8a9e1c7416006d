"""What broke once, with the whole service: locks, forks, silence, and long lists.

Alone: .venv/bin/pytest -m system tests/system/test_breakage.py
"""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg2
import pytest
from load import ANSWER_DUE, Answer, Client, headers, is_unavailable, path, wait_until

from tests import harness
from tests.clones import Clone, parameters_of
from tests.harness import ROOT, Postgres, Proxy, Service, service, token
from tests.test_keys import KeyServer, genuine, status

pytestmark = pytest.mark.system

USERS = 40
START_DUE = 15  # seconds
BUSY = 3  # seconds that Python may take beside that, on a busy machine
STOP_DUE = 5  # seconds
START_LOCK = 0x70D0
LONG_LISTS = 5  # at once, which is what one user gets
HEALTH_DUE = 0.1  # seconds
MOST_GROWTH = 250  # MiB
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"
COUNT_SESSIONS = f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}"
COUNT_ABANDONED = (
    "SELECT sessions_abandoned FROM pg_stat_database WHERE datname = current_database()"
)


@pytest.fixture
def url(database: Postgres) -> str:
    return database.create_database()


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.stop()


def number(database: Postgres, statement: str, url: str) -> int:
    """Return the one number that a statement gives."""
    return int(database.execute(statement, url=url)[0][0])


async def ask_as_everybody(running: Service, rounds: int) -> list[tuple[Answer, float]]:
    """Send each user's requests, one after the other, and return answers and seconds."""
    answers = []

    async def ask(client: Client) -> None:
        for _ in range(rounds):
            began = time.monotonic()
            answer = await client.request("GET")
            answers.append((answer, time.monotonic() - began))
        client.close()

    clients = [Client(running, f"user-{number}") for number in range(USERS)]
    await asyncio.gather(*map(ask, clients))
    return answers


@contextmanager
def sampled(measure: Callable[[], float]) -> Iterator[list[float]]:
    """Measure often, in a thread, until the end of the block."""
    samples: list[float] = []
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(0.02):
            samples.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


def test_a_pool_of_ten_holds_ten_connections_while_everybody_waits_for_a_lock(url: str) -> None:
    with (
        service(NEON_DATABASE_URL=url, DATABASE_POOL_SIZE="10") as running,
        closing(psycopg2.connect(url)) as holder,
        closing(psycopg2.connect(url)) as observer,
    ):
        observer.autocommit = True
        cursor = observer.cursor()

        def count_sessions() -> int:
            cursor.execute(f"{COUNT_SESSIONS} AND pid <> {holder.info.backend_pid}")
            return int(cursor.fetchone()[0])

        holder.cursor().execute("LOCK TABLE tasks")
        with sampled(count_sessions) as sessions:
            answers = asyncio.run(ask_as_everybody(running, rounds=2))
        assert max(sessions) == 10
        for answer, seconds in answers:
            assert is_unavailable(answer), answer.text
            assert seconds < ANSWER_DUE
        holder.rollback()
        answers = asyncio.run(ask_as_everybody(running, rounds=1))
        assert {answer.status_code for answer, _ in answers} == {200}
        assert running.output().count("database unavailable: ") == 2 * USERS


def test_no_process_that_was_forked_answers_with_another_users_rows(url: str) -> None:
    environment = harness.environment_of_service(NEON_DATABASE_URL=url)
    command = [sys.executable, "-m", "tests.forks"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_workers_of_gunicorn_preload_share_nothing(url: str) -> None:
    port = harness.free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=3"]
    command += ["--worker-class=uvicorn_worker.UvicornWorker", f"--bind=127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "backend.main:app"],
        cwd=ROOT,
        env=harness.environment_of_service(NEON_DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Connection": "close"})

    def ask(user: str) -> tuple[str, httpx.Response]:
        return user, client.post(path(user), headers=headers(user), json={"title": user})

    def is_up() -> bool:
        try:
            return client.get("/health").is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(is_up, "gunicorn answers")
        with ThreadPoolExecutor(8) as threads:
            answers = threads.map(ask, [f"user-{number % 20}" for number in range(200)])
            for user, answer in answers:
                assert answer.status_code == 201
                assert (answer.json()["user_id"], answer.json()["title"]) == (user, user)
    finally:
        client.close()
        process.terminate()
        process.wait(STOP_DUE)


def test_slow_keys_and_a_silent_database_are_503_in_time_together(
    database: Postgres, url: str, keys: KeyServer
) -> None:
    with Proxy(database.port) as proxy:
        address = url.replace(str(database.port), str(proxy.port))
        with service(NEON_DATABASE_URL=address, BETTER_AUTH_URL=keys.url) as running:
            proxy.silent = True
            keys.free.clear()
            threading.Timer(2.5, keys.free.set).start()
            began = time.monotonic()
            authorization = {"Authorization": f"Bearer {genuine(keys)}"}
            answer = running.request("GET", headers=authorization)
            seconds = time.monotonic() - began
            assert is_unavailable(answer), answer.text
            assert 4 < seconds < 5  # both were waited for
            assert len(keys.fetches) == 1
            assert proxy.connections == 2  # the start's, and this request's


def test_keys_that_trickle_hold_up_nobody_else_and_not_the_end(url: str, keys: KeyServer) -> None:
    keys.is_trickling = True
    authorization = {"Authorization": f"Bearer {genuine(keys)}"}
    with service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=keys.url) as running:
        with ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            waiting = threads.submit(running.request, "GET", headers=authorization)
            wait_until(lambda: keys.fetches, "the keys are being read")
            for _ in range(20):
                assert running.request("GET").status_code == 200
            assert not waiting.done()
            assert is_unavailable(waiting.result())
            assert time.monotonic() - began < 5
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(STOP_DUE)
        assert "Traceback" not in running.output()


@contextmanager
def starting(url: str) -> Iterator[Service]:
    """A service that is started and need not come up."""
    running = Service(NEON_DATABASE_URL=url)
    try:
        yield running
    finally:
        running.stop()


def test_a_start_behind_somebodys_lock_ends_with_one_line_in_time(database: Postgres) -> None:
    table, advisory, both = (database.create_database() for _ in range(3))
    for address in (table, advisory, both):
        with starting(address) as running:
            running.wait_until_up()  # which makes the tables
    lock_table = "LOCK TABLE tasks"
    lock_advisory = f"SELECT pg_advisory_lock({START_LOCK})"
    with (
        closing(psycopg2.connect(table)) as table_holder,
        closing(psycopg2.connect(advisory)) as advisory_holder,
        closing(psycopg2.connect(both)) as both_holder,
    ):
        table_holder.cursor().execute(lock_table)
        advisory_holder.cursor().execute(lock_advisory)
        both_holder.cursor().execute(lock_table)
        both_holder.cursor().execute(lock_advisory)
        began = time.monotonic()
        with starting(table) as first, starting(advisory) as second, starting(both) as third:
            time.sleep(6)
            both_holder.cursor().execute(f"SELECT pg_advisory_unlock({START_LOCK})")
            for running in (first, second, third):
                assert running.process.wait(START_DUE + BUSY) == 1
                assert time.monotonic() - began < START_DUE + BUSY
                line = "The database cannot be used: canceling statement due to lock timeout\n"
                assert running.output() == line


def test_what_requests_gave_up_is_freed_without_the_collector(database: Postgres, url: str) -> None:
    with Proxy(database.port) as proxy:
        address = url.replace(str(database.port), str(proxy.port))
        running = Service(program=("-m", "tests.uncollected"), NEON_DATABASE_URL=address)
        try:
            running.wait_until_up()
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda n: running.request("GET", user=f"user-{n}"), range(8)))
            assert running.client.get("/connections").json() > 0
            proxy.silent = True
            connected = proxy.connections
            answers = asyncio.run(ask_as_everybody(running, rounds=1))
            assert all(is_unavailable(answer) for answer, _ in answers)
            assert proxy.connections > connected  # some were given up while connecting
            assert running.client.get("/connections").json() == 0
            ends = psutil.Process(running.process.pid).net_connections("tcp4")
            assert proxy.port not in [end.raddr.port for end in ends if end.raddr]
        finally:
            running.stop()


def fill(database: Postgres, url: str) -> None:
    """Give user-0 as many tasks as one user may have, each of full length."""
    statement = """
        INSERT INTO tasks (user_id, title, description)
        SELECT 'user-0', repeat('x', 200), repeat('x', 1000)
        FROM generate_series(1, 10000)
    """
    database.execute("INSERT INTO users (id) VALUES ('user-0')", url=url)
    database.execute(statement, url=url)


def list_tasks(running: Service) -> int:
    """Read the list, keep nothing, and return its size in bytes."""
    request = f"GET {path('user-0')} HTTP/1.0\r\n"
    for name, value in headers("user-0").items():
        request += f"{name}: {value}\r\n"
    buffer = bytearray(2**20)
    size = 0
    with socket.create_connection(("127.0.0.1", running.port), 15) as connection:
        connection.sendall(f"{request}\r\n".encode())
        while received := connection.recv_into(buffer):
            size += received
    return size


def seconds_of_health(running: Service) -> float:
    began = time.monotonic()
    assert running.client.get("/health").status_code == 200
    return time.monotonic() - began


def test_the_longest_lists_hold_up_nobody_and_fit_in_memory(database: Postgres, url: str) -> None:
    slowest = []
    with service(NEON_DATABASE_URL=url) as running, ThreadPoolExecutor(LONG_LISTS) as threads:
        fill(database, url)
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        with sampled(lambda: process.memory_info().rss) as memory:
            for _ in range(3):
                with sampled(lambda: seconds_of_health(running)) as health:
                    sizes = list(threads.map(list_tasks, [running] * LONG_LISTS))
                assert {size // 2**20 for size in sizes} == {13}
                slowest.append(max(health))
        growth = (max(memory) - before) // 2**20
    print(f"{growth} MiB more, the slowest answers of /health: {slowest} s")
    assert growth < MOST_GROWTH
    assert min(slowest) < HEALTH_DUE  # A busy machine only adds.


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_closes_the_connections_and_leaves_none_to_the_system(
    database: Postgres, url: str, workers: int
) -> None:
    with service("--workers", str(workers), NEON_DATABASE_URL=url) as running:
        complete = "Application startup complete"
        wait_until(lambda: running.output().count(complete) == workers, "every worker serves")
        asyncio.run(ask_as_everybody(running, rounds=2))
        assert number(database, COUNT_SESSIONS, url) > workers
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(STOP_DUE)
        assert "Traceback" not in running.output()
    wait_until(lambda: number(database, COUNT_SESSIONS, url) == 0, "every connection is closed")
    assert number(database, COUNT_ABANDONED, url) == 0


@contextmanager
def clone_service(clone: Clone) -> Iterator[Service]:
    running = clone.start(NEON_DATABASE_URL="embedded")
    try:
        yield running
    finally:
        running.stop()


def test_sigterm_closes_the_connections_to_the_embedded_server_before_it_stops(
    tmp_path: Path,
) -> None:
    clone = Clone(tmp_path / "clone")
    other_user = clone.use()  # keeps the server after the service has gone
    with closing(psycopg2.connect(**parameters_of(other_user))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def ask(statement: str) -> int:
            cursor.execute(statement)
            return int(cursor.fetchone()[0])

        left = ask(COUNT_SESSIONS)
        with clone_service(clone) as running:
            asyncio.run(ask_as_everybody(running, rounds=2))
            assert ask(COUNT_SESSIONS) > left + 2
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(STOP_DUE)
        wait_until(lambda: ask(COUNT_SESSIONS) == left, "every connection is closed")
        # That by which the server is counted as used lives as long as the process.
        assert ask(COUNT_ABANDONED) == 1
    other_user.communicate()
    clone.wait_until_nothing_runs()


def test_a_hanging_endpoint_is_503_in_time_and_holds_up_nobody_else(
    url: str, keys: KeyServer
) -> None:
    keys.free.clear()
    waited: list[tuple[int, float]] = []

    def wait() -> None:
        began = time.monotonic()
        waited.append((status(api, genuine(keys)), time.monotonic() - began))

    with service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=keys.url) as api:
        waiting = threading.Thread(target=wait)
        waiting.start()
        due = time.monotonic() + 3
        while not keys.fetches:
            assert time.monotonic() < due
        assert status(api, token()) == 200
        assert api.client.get("/health").status_code == 200
        assert not waited
        waiting.join()
        assert len(waited) == 1
        answered, seconds = waited[0]
        assert answered == 503
        assert seconds < 5
