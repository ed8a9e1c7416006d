"""One round trip for each request, and nothing lost when connections are."""

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.dialects.postgresql import psycopg2 as psycopg2_dialect

from tests.harness import SECRET, Proxy, Service, service, token
from tests.test_isolation import ROUTES


@pytest.fixture(scope="module")
def proxy(database):
    with Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def behind(database, proxy):
    """The service behind a proxy that counts what goes over the wire."""
    url = database.create_database().replace(str(database.port), str(proxy.port))
    with service(NEON_DATABASE_URL=url) as running:
        running.request("GET")  # connect
        yield running


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


def burst(api: Service, user: str, number: int = 8) -> list[int]:
    """Send reads at once; return their statuses."""
    with ThreadPoolExecutor(number) as pool:
        return [
            answer.status_code
            for answer in pool.map(lambda _: api.request("GET", "", user), range(number))
        ]


def test_no_request_fails_after_every_idle_connection_was_terminated(api, database, user):
    assert burst(api, user) == [200] * 8
    name = api.database.rpartition("/")[2]
    terminate = (
        "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE datname = %s"
    )
    assert database.execute(terminate, name)[0][0] > 1
    assert burst(api, user) == [200] * 8
    assert api.request("POST", "", user, json={"title": "x"}).status_code == 201


@pytest.mark.parametrize("reset", [False, True])
def test_no_request_fails_after_every_idle_connection_was_cut(behind, proxy, user, reset):
    assert burst(behind, user) == [200] * 8
    proxy.cut(reset)
    while proxy.writers:
        time.sleep(0.001)
    assert burst(behind, user) == [200] * 8


def test_connections_never_exceed_the_pool_size(database, user):
    url = database.create_database()
    with (
        service(NEON_DATABASE_URL=url, DATABASE_POOL_SIZE="3") as api,
        ThreadPoolExecutor(24) as pool,
    ):
        answers = [
            pool.submit(api.request, "GET", "", f"{user}{number % 6}") for number in range(240)
        ]
        most = 0
        while not all(answer.done() for answer in answers):
            count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            most = max(most, database.execute(count, url.rpartition("/")[2])[0][0])
        assert {answer.result().status_code for answer in answers} == {200}
        assert 1 <= most <= 3


def test_eight_clients_toggling_at_once_lose_nothing(api, user, task):
    def toggle(_: int) -> bool:
        return api.request("PATCH", f"/{task['id']}/complete", user).json()["completed"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(toggle, range(81)))
    assert answers.count(True) == 41
    assert api.request("GET", f"/{task['id']}", user).json()["completed"] is True


def test_four_processes_make_the_tables_of_an_empty_database_at_once(database):
    url = database.create_database()
    services = [Service(NEON_DATABASE_URL=url) for _ in range(4)]
    try:
        for api in services:
            assert api.wait_until_up().request("GET").status_code == 200
    finally:
        for api in services:
            api.stop()
    columns = "SELECT table_name, count(*) FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1"
    assert sorted(database.execute(columns, url=url)) == [("tasks", 7), ("users", 3)]


def test_a_table_of_another_kind_is_one_line_at_start(database):
    url = database.create_database()
    database.execute("CREATE TABLE tasks (id int PRIMARY KEY, title text)", url=url)
    api = Service(NEON_DATABASE_URL=url)
    assert api.process.wait(20) == 1
    assert "The database cannot be used: column tasks.user_id does not exist" in api.output()
    api.stop()


def test_times_are_utc_although_the_database_is_elsewhere(api, database, user):
    assert database.execute("SHOW timezone", url=api.database) == [("Asia/Kolkata",)]
    created_at = api.request("POST", "", user, json={"title": "x"}).json()["created_at"]
    assert created_at.endswith("Z")
    assert abs(datetime.fromisoformat(created_at) - datetime.now(UTC)) < timedelta(minutes=1)


def test_down_is_503_and_back_is_served_at_once(database, user):
    with Proxy(database.port) as proxy:
        url = database.create_database().replace(str(database.port), str(proxy.port))
        with service(NEON_DATABASE_URL=url) as api:
            assert api.request("POST", "", user, json={"title": "x"}).status_code == 201
            real, proxy.target = proxy.target, 1
            proxy.cut()
            answers = [
                api.request(method, path.format(id=1), user, json=body)
                for method, path, body in ROUTES
            ]
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
            assert {answer.json()["detail"] for answer in answers} == {
                "The database or the sign-in keys are unavailable."
            }
            assert api.request("GET", "", user, headers={"Authorization": ""}).status_code == 401
            proxy.target = real
            assert [task["title"] for task in api.request("GET", "", user).json()] == ["x"]


def test_without_add_reader_the_service_works_all_the_same(database, user):
    """As on Windows, whose usual event loop has none."""
    program = (
        "import asyncio, sys, uvicorn.main; sys.argv[0] = 'uvicorn';"
        "loop = type('Loop', (asyncio.SelectorEventLoop,), dict(add_reader=asyncio.AbstractEventLoop.add_reader,"
        " add_writer=asyncio.AbstractEventLoop.add_writer));"
        "sys.modules['proactor'] = type(sys)('proactor'); sys.modules['proactor'].new = loop;"
        "uvicorn.main.main()"
    )
    api = Service(
        "--loop",
        "proactor:new",
        program=("-c", program),
        NEON_DATABASE_URL=database.create_database(),
    )
    try:
        api.wait_until_up()
        assert api.request("POST", "", user, json={"title": "x"}).status_code == 201
        assert burst(api, user) == [200] * 8
    finally:
        api.stop()


def test_lists_and_single_tasks_are_index_scans_among_many_users(api, database, user, monkeypatch):
    monkeypatch.setenv("NEON_DATABASE_URL", api.database)
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    statements = importlib.reload(importlib.import_module("backend.routes.tasks"))
    task = api.request("POST", "", user, json={"title": "x"}).json()
    owners = "INSERT INTO users (id) SELECT %s || n FROM generate_series(1, 200) n"
    theirs = "INSERT INTO tasks (user_id, title) SELECT %s || mod(n, 200) + 1, 'x' FROM generate_series(1, 20000) n"
    for statement in (owners, theirs):
        database.execute(statement, f"{user}-", url=api.database)
    database.execute("ANALYZE tasks", url=api.database)
    for name in ("LIST", "READ", "UPDATE", "TOGGLE", "DELETE"):
        sql = str(getattr(statements, name).compile(dialect=psycopg2_dialect.dialect()))
        values = {"user_id": f"{user}-1", "task_id": task["id"], "describe": False}
        values |= dict.fromkeys(("new_title", "new_description", "new_completed"))
        plan = "\n".join(
            line for (line,) in database.execute(f"EXPLAIN {sql}", url=api.database, **values)
        )
        assert "Index" in plan, plan
        assert "Seq Scan" not in plan, plan
