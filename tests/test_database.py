"""One round trip for each request, and nothing lost when connections are."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from tests.harness import Postgres, Service, token
from tests.test_isolation import ROUTES

AT_ONCE = 8  # requests, each of another user, and so as many connections

SESSIONS = """
    SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*)
    FROM pg_stat_activity
    WHERE datname = %s AND application_name <> 'holder'
"""
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"


@pytest.fixture(scope="module")
def proxy(database_proxy):
    """What counts and cuts between `behind` and its database."""
    return database_proxy


@pytest.fixture(scope="module")
def behind(starting_behind):
    service = starting_behind.wait_until_up()
    service.request("GET")  # connect
    return service


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_every_route_takes_one_round_trip(behind, proxy, user, method, path, body):
    task = behind.request("POST", "", user, json={"title": "x"}).json()
    before = proxy.round_trips
    assert behind.request(method, path.format(id=task["id"]), user, json=body).is_success
    assert proxy.round_trips - before == 1


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_a_refused_request_takes_none(behind, proxy, user, method, path, body):
    before = proxy.round_trips
    path = path.format(id=1)
    for headers in ({"Authorization": ""}, {"Authorization": f"Bearer {token(user, seconds=-60)}"}):
        assert behind.request(method, path, user, headers=headers, json=body).status_code == 401
    headers = {"Authorization": f"Bearer {token('other')}"}
    assert behind.request(method, path, user, headers=headers, json=body).status_code == 403
    bad = {"json": {"title": 5, "completed": 5}} if body or "complete" in path else {}
    if path:
        assert behind.request(method, path.replace("1", "abc"), user, **bad).status_code == 400
    if bad:
        assert behind.request(method, path, user, **bad).status_code == 400
    assert behind.client.get("/health").status_code == 200
    assert proxy.round_trips == before


def sessions(database: Postgres, url: str) -> tuple[int, int]:
    """Return how many connections to a database wait for a lock, and how many there are."""
    return database.execute(SESSIONS, url.rpartition("/")[2])[0]


@contextmanager
def locked(database: Postgres, url: str, statement: str) -> Iterator[None]:
    """Hold the locks that a statement takes."""
    address = f"{database.database(url.rpartition('/')[2])}?application_name=holder"
    with closing(psycopg2.connect(address)) as holder:
        holder.cursor().execute(statement)
        yield


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("what was waited for did not come about")


def wait_for_locks(database: Postgres, url: str, number: int) -> None:
    """Wait until so many connections of the service wait for a lock."""
    wait_until(lambda: sessions(database, url)[0] >= number)


def read_at_once(
    api: Service, database: Postgres, user: str, number_of_users: int = AT_ONCE
) -> list[int]:
    """Read the lists of so many users, all at the same time; return the statuses."""
    with ThreadPoolExecutor(number_of_users) as threads:
        with locked(database, api.database, "LOCK TABLE tasks"):
            answers = [
                threads.submit(api.request, "GET", "", f"{user}{number}")
                for number in range(number_of_users)
            ]
            wait_for_locks(database, api.database, number_of_users)
        return [answer.result().status_code for answer in answers]


def test_no_request_fails_after_every_idle_connection_was_terminated(api, database, user):
    assert read_at_once(api, database, user) == [200] * AT_ONCE
    name = api.database.rpartition("/")[2]
    assert database.execute(TERMINATE, name)[0][0] >= AT_ONCE
    wait_until(lambda: sessions(database, api.database)[1] == 0)
    assert read_at_once(api, database, user) == [200] * AT_ONCE
    assert api.request("POST", "", user, json={"title": "x"}).status_code == 201


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_no_request_fails_after_every_idle_connection_was_cut(behind, proxy, database, user, reset):
    assert read_at_once(behind, database, user) == [200] * AT_ONCE
    assert len(proxy.writers) >= AT_ONCE
    proxy.cut(reset)
    wait_until(lambda: not proxy.writers)
    assert read_at_once(behind, database, user) == [200] * AT_ONCE


QUERIED_SINCE = """
    SELECT count(*)
    FROM pg_stat_activity
    WHERE datname = %s AND query_start > %s
"""


def test_the_connection_that_was_used_last_is_used_next(api, database, user):
    assert read_at_once(api, database, user) == [200] * AT_ONCE
    assert sessions(database, api.database)[1] >= AT_ONCE
    since = database.execute("SELECT clock_timestamp()")[0][0]
    for _ in range(AT_ONCE):
        assert api.request("GET", "", user).status_code == 200
    name = api.database.rpartition("/")[2]
    assert database.execute(QUERIED_SINCE, name, since) == [(1,)]


@pytest.fixture(scope="module")
def small_pool(starting_small_pool):
    return starting_small_pool.wait_until_up()


def test_connections_never_exceed_the_pool_size(small_pool, database, user):
    with ThreadPoolExecutor(24) as threads:
        answers = [
            threads.submit(small_pool.request, "GET", "", f"{user}{number % 6}")
            for number in range(240)
        ]
        most = 0
        while not all(answer.done() for answer in answers):
            most = max(most, sessions(database, small_pool.database)[1])
    assert {answer.result().status_code for answer in answers} == {200}
    assert 1 <= most <= 4


def test_a_locked_row_holds_up_only_its_user_although_the_pool_is_small(
    small_pool, database, user, other
):
    task = small_pool.request("POST", "", user, json={"title": "x"}).json()
    path = f"/{task['id']}"
    row = f"SELECT FROM tasks WHERE id = {task['id']} FOR UPDATE"
    with ThreadPoolExecutor(8) as threads:
        with locked(database, small_pool.database, row):
            held_up = [
                threads.submit(small_pool.request, "PATCH", f"{path}/complete", user)
                for _ in range(8)
            ]
            wait_for_locks(database, small_pool.database, 1)
            for _ in range(8):
                assert small_pool.request("GET", "", other).status_code == 200
            assert not any(answer.done() for answer in held_up)
        assert {answer.result().status_code for answer in held_up} == {200}


def test_eight_clients_toggling_at_once_lose_nothing(api, user, task):
    def toggle(_: int) -> bool:
        return api.request("PATCH", f"/{task['id']}/complete", user).json()["completed"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(toggle, range(81)))
    assert answers.count(True) == 41
    assert api.request("GET", f"/{task['id']}", user).json()["completed"] is True


def test_times_are_utc_although_the_database_is_elsewhere(api, database, user):
    assert database.execute("SHOW timezone", url=api.database) == [("Asia/Kolkata",)]
    created_at = api.request("POST", "", user, json={"title": "x"}).json()["created_at"]
    assert created_at.endswith("Z")
    assert abs(datetime.fromisoformat(created_at) - datetime.now(UTC)) < timedelta(minutes=1)


def test_down_is_503_and_back_is_served_at_once(behind, proxy, user):
    assert behind.request("POST", "", user, json={"title": "x"}).status_code == 201
    real = proxy.target
    proxy.target = 1
    try:
        proxy.cut()
        answers = [
            behind.request(method, path.format(id=1), user, json=body)
            for method, path, body in ROUTES
        ]
        refused = behind.request("GET", "", user, headers={"Authorization": ""})
    finally:
        proxy.target = real
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
    detail = "The database or the sign-in keys are unavailable."
    assert [answer.json() for answer in answers] == [{"detail": detail}] * len(ROUTES)
    assert refused.status_code == 401
    assert [task["title"] for task in behind.request("GET", "", user).json()] == ["x"]


def test_without_add_reader_the_service_works_all_the_same(small_pool, database, user):
    """As on Windows, whose usual event loop has none."""
    assert small_pool.request("POST", "", user, json={"title": "x"}).status_code == 201
    assert read_at_once(small_pool, database, user, 4) == [200] * 4


SHUFFLED = """
    INSERT INTO tasks (id, user_id, title)
    SELECT 1000000 + mod(n * 37, 101), %s, mod(n * 53, 101)::text
    FROM generate_series(1, 100) AS n
"""


def test_newest_come_first_however_the_rows_are_read(small_pool, database, user):
    """Rows of another order on the disk, in an index that is not there."""
    small_pool.request("POST", "", user, json={"title": "x"})
    database.execute("DROP INDEX ix_tasks_user_id_id", url=small_pool.database)
    database.execute(SHUFFLED, user, url=small_pool.database)
    listed = small_pool.request("GET", "", user).json()
    ids = [task["id"] for task in listed]
    assert len(ids) == 101
    assert ids == sorted(ids, reverse=True)
