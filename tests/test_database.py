"""One round trip for each request, nothing lost when connections are, and what is waited for."""

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from psycopg2 import extensions

from backend import db, settings
from tests.harness import MAX_TASK_ID, Postgres, Proxy, Service, token, wait_until
from tests.test_access import STATEMENTS
from tests.test_tasks import ROUTES

POOL = 4  # connections of the service `remote`

SESSIONS = """
    SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*)
    FROM pg_stat_activity
    WHERE datname = %s AND application_name <> 'holder'
"""
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_every_route_takes_one_round_trip(remote, proxy, user, method, path, body):
    task = remote.request("POST", "", user, json={"title": "x"}).json()
    before = proxy.round_trips
    assert remote.request(method, path.format(id=task["id"]), user, json=body).is_success
    assert proxy.round_trips - before == 1


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_a_refused_request_takes_none(remote, proxy, user, method, path, body):
    before = proxy.round_trips
    path = path.format(id=1)
    for text, status in ((token(user, seconds=-60), 401), (token("other"), 403)):
        answer = remote.request(method, path, user, bearer=text, json=body)
        assert answer.status_code == status
    if path:
        assert remote.request(method, path.replace("1", "abc"), user).status_code == 400
    assert remote.client.get("/health").status_code == 200
    assert proxy.round_trips == before


def sessions(database: Postgres, url: str) -> tuple[int, int]:
    """Return how many connections to a database wait for a lock, and how many there are."""
    return database.execute(SESSIONS, url.rpartition("/")[2])[0]


@contextmanager
def locked(database: Postgres, url: str, statement: str = "LOCK TABLE tasks") -> Iterator[None]:
    """Hold the locks that a statement takes."""
    address = f"{database.database(url.rpartition('/')[2])}?application_name=holder"
    with closing(psycopg2.connect(address)) as holder:
        holder.cursor().execute(statement)
        yield


def wait_for_locks(database: Postgres, url: str, number: int) -> None:
    """Wait until so many connections of the service wait for a lock."""
    wait_until(lambda: sessions(database, url)[0] >= number)


def read_at_once(api: Service, database: Postgres, user: str) -> list[int]:
    """Read the lists of as many users as there are connections, at once; return the statuses."""
    with ThreadPoolExecutor(POOL) as threads:
        with locked(database, api.database):
            answers = [
                threads.submit(api.request, "GET", "", f"{user}{number}") for number in range(POOL)
            ]
            wait_for_locks(database, api.database, POOL)
        return [answer.result().status_code for answer in answers]


def terminate(database: Postgres, proxy: Proxy, url: str) -> None:
    """End every connection to a database, as Neon does when it suspends."""
    database.execute(TERMINATE, url.rpartition("/")[2])
    wait_until(lambda: not proxy.writers)


ENDS = {
    "terminated": terminate,
    "FIN": lambda _database, proxy, _url: proxy.cut(),
    "RST": lambda _database, proxy, _url: proxy.cut(reset=True),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_no_request_fails_after_every_idle_connection_has_ended(remote, proxy, database, user, end):
    assert read_at_once(remote, database, user) == [200] * POOL
    assert len(proxy.writers) == 2 * POOL  # one for each direction
    end(database, proxy, remote.database)
    wait_until(lambda: not proxy.writers)
    assert read_at_once(remote, database, user) == [200] * POOL


def test_connections_that_a_network_forgot_cost_one_503(remote, proxy, database, user):
    assert read_at_once(remote, database, user) == [200] * POOL
    proxy.forget()
    statuses = [remote.request("GET", "", user).status_code for _ in range(POOL)]
    assert statuses == [503] + [200] * (POOL - 1)


@pytest.fixture
def layer(database, monkeypatch):
    """The database layer of this process, connected with PostgreSQL."""
    monkeypatch.setattr(db, "parameters", extensions.parse_dsn(database.url))
    monkeypatch.setattr(db, "idle", [])
    return db


TIMEOUT = "SELECT %(user_id)s AS user_id, current_setting('statement_timeout') AS timeout"


def test_postgresql_gives_up_a_statement_after_three_seconds(layer):
    assert asyncio.run(layer.fetch(TIMEOUT, user_id="ada"))[0]["timeout"] == "3s"


WHO = "SELECT %(user_id)s AS user_id, pg_backend_pid() AS backend"
SLOWLY = f"SELECT * FROM ({WHO}) AS who, pg_sleep(60)"


def test_a_connection_whose_request_was_cancelled_is_never_lent_again(layer):
    async def scenario():
        (before,) = await layer.fetch(WHO, user_id="ada")
        request = asyncio.create_task(layer.fetch(SLOWLY, user_id="eve"))
        await asyncio.sleep(0)  # in which its statement is sent
        assert layer.idle == []
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        (after,) = await layer.fetch(WHO, user_id="bob")
        assert after["user_id"] == "bob"
        assert after["backend"] != before["backend"]
        assert len(layer.idle) == 1
        async with asyncio.timeout(1):
            for _ in range(settings.database_pool_size):
                await layer.places.acquire()
        for _ in range(settings.database_pool_size):
            layer.places.release()

    asyncio.run(scenario())


def test_connections_never_exceed_the_pool_size(remote, database, user):
    with ThreadPoolExecutor(16) as threads:
        answers = [
            threads.submit(remote.request, "GET", "", f"{user}{number % 6}") for number in range(96)
        ]
        most = 0
        while not all(answer.done() for answer in answers):
            most = max(most, sessions(database, remote.database)[1])
    assert {answer.result().status_code for answer in answers} == {200}
    assert 1 <= most <= POOL


def test_a_request_waits_a_second_for_a_connection(remote, database, user):
    with ThreadPoolExecutor(POOL) as threads, locked(database, remote.database):
        held_up = [
            threads.submit(remote.request, "GET", "", f"{user}{number}") for number in range(POOL)
        ]
        wait_for_locks(database, remote.database, POOL)
        began = time.monotonic()
        answer = remote.request("GET", "", user)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert 0.9 < time.monotonic() - began < 2.5
    assert [answer.result().status_code for answer in held_up] == [200] * POOL


def test_a_server_that_has_become_a_standby_is_503_for_writes(remote, proxy, database, user):
    name = remote.database.rpartition("/")[2]
    change = f"ALTER DATABASE {name} SET default_transaction_read_only = {{}}"
    try:
        database.execute(change.format("on"))
        terminate(database, proxy, remote.database)
        assert remote.request("POST", "", user, json={"title": "x"}).status_code == 503
        assert remote.request("GET", "", user).status_code == 200
    finally:
        database.execute(change.format("off"))
        terminate(database, proxy, remote.database)


def test_down_is_503_and_back_is_served_at_once(remote, proxy, user):
    assert remote.request("POST", "", user, json={"title": "x"}).status_code == 201
    real = proxy.target
    proxy.target = 1
    try:
        proxy.cut()
        wait_until(lambda: not proxy.writers)
        answers = [
            remote.request(method, path.format(id=1), user, json=body)
            for method, path, body in ROUTES
        ]
        refused = remote.request("GET", "", user, bearer="x")
    finally:
        proxy.target = real
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
    detail = "The database or the sign-in keys are unavailable."
    assert [answer.json() for answer in answers] == [{"detail": detail}] * len(ROUTES)
    assert refused.status_code == 401
    assert [task["title"] for task in remote.request("GET", "", user).json()] == ["x"]


def test_times_are_utc_although_the_database_is_elsewhere(api, database, user):
    assert database.execute("SHOW timezone", url=api.database) == [("Asia/Kolkata",)]
    created_at = api.request("POST", "", user, json={"title": "x"}).json()["created_at"]
    assert created_at.endswith("Z")
    assert abs(datetime.fromisoformat(created_at) - datetime.now(UTC)) < timedelta(minutes=1)


def test_deleting_a_user_deletes_the_tasks(api, database, user, task):
    database.execute("DELETE FROM users WHERE id = %s", user, url=api.database)
    assert api.request("GET", f"/{task['id']}", user).status_code == 404


def test_a_task_may_have_any_id_that_javascript_counts_exactly(api, database, user, task):
    change = "UPDATE tasks SET id = %s WHERE id = %s"
    database.execute(change, MAX_TASK_ID, task["id"], url=api.database)
    assert api.request("GET", f"/{MAX_TASK_ID}", user).json()["id"] == MAX_TASK_ID
    assert api.request("DELETE", f"/{MAX_TASK_ID}", user).status_code == 204


THEIR_TASKS = """
    INSERT INTO users (id) SELECT 'many-' || n FROM generate_series(1, 200) AS n;
    INSERT INTO tasks (user_id, title, completed, created_at, updated_at)
    SELECT 'many-' || mod(n, 200) + 1, 'x', false, now(), now()
    FROM generate_series(1, 20000) AS n;
"""
VALUES = {
    "user_id": "many-1",
    "task_id": 1,
    "title": "x",
    "has_description": False,
    "description": None,
}


@pytest.fixture(scope="session")
def among_many(api, database):
    """The database of the service, with 20,000 tasks of 200 users."""
    database.execute(THEIR_TASKS, url=api.database)
    database.execute("VACUUM ANALYZE tasks, users", url=api.database)
    return api.database


@pytest.mark.parametrize("completed", [None, True])
@pytest.mark.parametrize("statement", [text for text in STATEMENTS if "INSERT" not in text])
def test_each_statement_is_one_index_scan_among_the_tasks_of_many_users(
    among_many, database, statement, completed
):
    values = VALUES | {"completed": completed}
    rows = database.execute(f"EXPLAIN {statement}", url=among_many, **values)
    plan = "\n".join(row[0] for row in rows)
    assert re.findall(r"(Seq Scan|Bitmap Index Scan|Index Scan)", plan) in (
        ["Index Scan"],
        ["Bitmap Index Scan"],
    ), plan
