"""What the service promises about its database and takes seconds to show.

Alone: .venv/bin/pytest -m system tests/system/test_database.py
"""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from load import is_unavailable

from tests.harness import Postgres, service
from tests.tables import make_database, refusal, start_once
from tests.test_database import locked, sessions, wait_for_locks

pytestmark = pytest.mark.system

COLUMNS = """
    SELECT table_name, count(*)
    FROM information_schema.columns
    WHERE table_schema = 'public'
    GROUP BY table_name
    ORDER BY table_name
"""
ID_TYPE = """
    SELECT data_type
    FROM information_schema.columns
    WHERE table_name = 'tasks' AND column_name = 'id'
"""


def test_four_processes_make_the_tables_of_an_empty_database_at_once(database: Postgres) -> None:
    for _ in range(3):
        url = make_database(database)
        with ThreadPoolExecutor(4) as threads:
            starts = list(threads.map(start_once, [url] * 4))
        assert [start.returncode for start in starts] == [0] * 4, starts
        assert database.execute(COLUMNS, url=url) == [("tasks", 7), ("users", 4)]
        assert database.execute(ID_TYPE, url=url) == [("bigint",)]


ACTIVE = """
    SELECT count(*)
    FROM pg_stat_activity
    WHERE datname = %s AND state <> 'idle' AND application_name <> 'holder'
"""
CANCELLED = "canceling statement due to statement timeout"


def test_postgresql_itself_ends_a_statement_that_waits_and_its_connection_stays(
    database: Postgres,
) -> None:
    url = database.create_database()
    name = url.rpartition("/")[2]
    log = database.data.parent / "log"
    with service(NEON_DATABASE_URL=url) as api, ThreadPoolExecutor(4) as threads:
        task = api.request("POST", json={"title": "x"}).json()
        path = f"/{task['id']}/complete"
        before = log.read_text().count(CANCELLED)
        row = f"SELECT FROM tasks WHERE id = {task['id']} FOR UPDATE"
        with locked(database, url, row):
            began = time.monotonic()
            held_up = [threads.submit(api.request, "PATCH", path) for _ in range(4)]
            wait_for_locks(database, url, 4)
            answers = [answer.result() for answer in held_up]
            assert time.monotonic() - began < 5
            assert database.execute(ACTIVE, name) == [(0,)]
            assert sessions(database, url) == (0, 4)
        assert [is_unavailable(answer) for answer in answers] == [True] * 4
        assert log.read_text().count(CANCELLED) == before + 4
        assert api.request("GET", f"/{task['id']}").json() == task
        assert sessions(database, url) == (0, 4)


@pytest.mark.parametrize(("parameter", "seconds"), [("", 4), ("?connect_timeout=2", 2)])
def test_a_start_waits_for_a_silent_server_for_so_many_seconds(
    parameter: str, seconds: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        line = refusal(f"postgresql://ada:hunter2@127.0.0.1:{port}/todo{parameter}")
        took = time.monotonic() - began
    assert line.startswith("The database cannot be used: ")
    assert "timeout expired" in line
    assert seconds <= took < seconds + 3


OF_ENCODING = """
    CREATE DATABASE {0}
    ENCODING '{0}'
    TEMPLATE template0
    LOCALE_PROVIDER libc
    LOCALE 'C'
"""


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("parameter", ["", "?client_encoding=latin1"])
def test_a_title_survives_a_database_of_another_encoding(
    database: Postgres, encoding: str, parameter: str
) -> None:
    database.execute(OF_ENCODING.format(encoding))
    url = database.database(encoding.lower())
    try:
        with service(NEON_DATABASE_URL=url + parameter) as api:
            task = api.request("POST", json={"title": "Café"}).json()
            assert task["title"] == "Café"
            assert api.request("GET").json() == [task]
        stored = database.execute("SELECT convert_to(title, 'UTF8') FROM tasks", url=url)
        assert bytes(stored[0][0]) == "Café".encode()
    finally:
        database.execute(f"DROP DATABASE {encoding} WITH (FORCE)")
