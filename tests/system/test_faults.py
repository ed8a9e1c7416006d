"""Faults while users work: no write is lost or done twice, and every failure is a 503 in time.

Each fault adds a row to a table that is printed at the end.
"""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from load import ANSWER_DUE, SESSIONS, Load, ask_at_once, is_unavailable, row

from tests import COPY
from tests.harness import CHECK, Postgres, Proxy, Service, service, started, wait_until

pytestmark = pytest.mark.system

# Seconds.
DISTANCE = 0.05  # to the database and back, so that some statements are on their way

STARTED = "Application startup complete"


def terminate(database: Postgres, _proxy: Proxy, url: str) -> None:
    """End every connection as Neon does when it suspends; return when they are gone."""
    statement = f"SELECT pid, pg_terminate_backend(pid) {SESSIONS}"
    terminated = [pid for pid, _ in database.execute(statement, url=url)]
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)"
    wait_until(lambda: database.execute(left, terminated) == [(0,)], "they are gone")
    time.sleep(DISTANCE)  # which the news has to travel, too


def crash(database: Postgres, _proxy: Proxy, _url: str) -> None:
    database.stop("immediate")
    time.sleep(0.5)
    database.start()


def cut(_database: Postgres, proxy: Proxy, _url: str) -> None:
    proxy.cut(reset=True)
    time.sleep(0.05)


def lose_answers(_database: Postgres, proxy: Proxy, _url: str) -> None:
    proxy.answers_lost = True
    time.sleep(0.1)
    proxy.answers_lost = False


def lose_answers_and_cut(database: Postgres, proxy: Proxy, url: str) -> None:
    lose_answers(database, proxy, url)
    cut(database, proxy, url)


def lose_answers_and_wait(database: Postgres, proxy: Proxy, url: str) -> None:
    """Lose answers on connections that live on: a later answer on one is another request's."""
    lose_answers(database, proxy, url)
    time.sleep(5)


def fall_silent(_database: Postgres, proxy: Proxy, _url: str) -> None:
    proxy.silent = True
    time.sleep(6)
    proxy.silent = False


# What happens, how often, and how far away the database is.
FAULTS: dict[str, tuple[Callable[[Postgres, Proxy, str], None], int, float]] = {
    "connections terminated": (terminate, 6, DISTANCE),
    "PostgreSQL crashed and started again": (crash, 2, 0),
    "connections cut": (cut, 6, DISTANCE),
    "connections cut between statement and answer": (lose_answers_and_cut, 6, 0),
    "silence between statement and answer": (lose_answers_and_wait, 1, 0),
    "a database that accepts and never answers, for 6 s": (fall_silent, 1, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_acknowledged_write_is_lost_or_done_twice_and_a_failure_is_503_in_time(
    database: Postgres, faulty: Proxy, url: str, faults: list[str], fault: str
) -> None:
    happen, times, faulty.delay = FAULTS[fault]
    with (
        service(NEON_DATABASE_URL=faulty.address(url)) as running,
        Load(running, database, url) as load,
    ):
        for _ in range(times):
            happen(database, faulty, url)
            load.check_first_request()
            time.sleep(0.4)
    assert load.failures, "no statement was interrupted"
    if "between statement and answer" in fault:
        assert load.done_all_the_same, "no answer was lost"
    faults.append(load.row(f"{fault}, {times} times" if times > 1 else fault))


def test_connections_on_which_a_network_says_nothing_any_more_cost_one_503(
    faulty: Proxy, url: str, faults: list[str]
) -> None:
    with service(NEON_DATABASE_URL=faulty.address(url)) as running:
        faulty.delay = DISTANCE  # so that several requests need a connection each
        assert {answer.status_code for answer in ask_at_once(running, 8)} == {200}
        connected = faulty.connections
        assert connected >= 8
        faulty.forget(then_reset=False)
        statuses = [running.request("GET").status_code for _ in range(10)]
        assert statuses == [503] + [200] * 9
        assert faulty.connections == connected + 1
    faults.append(row("8 idle connections that a network forgot", 10, "503: 1"))


def test_a_pool_of_ten_holds_ten_connections_while_everybody_waits_for_a_lock(
    url: str, faults: list[str]
) -> None:
    with (
        service(NEON_DATABASE_URL=url, DATABASE_POOL_SIZE="10") as running,
        closing(psycopg2.connect(url)) as holder,
        closing(psycopg2.connect(url)) as observer,
        ThreadPoolExecutor(1) as threads,
    ):
        holder.cursor().execute("LOCK TABLE tasks")
        observer.autocommit = True
        cursor = observer.cursor()
        answering = threads.submit(lambda: ask_at_once(running, 40) + ask_at_once(running, 40))
        most = 0
        while not answering.done():
            cursor.execute(f"SELECT count(*) {SESSIONS}")
            most = max(most, cursor.fetchone()[0])
            time.sleep(0.02)
        assert most == 10 + 1  # the holder's, too
        for answer in answering.result():
            assert is_unavailable(answer)
            assert answer.elapsed.total_seconds() < ANSWER_DUE
        holder.rollback()
        assert {answer.status_code for answer in ask_at_once(running, 40)} == {200}
    faults.append(row("a table locked, with a pool of 10", 80, "503: 80"))


def test_requests_that_are_cancelled_at_any_moment_leave_no_trace(
    faulty: Proxy, url: str, faults: list[str]
) -> None:
    faulty.delay = 0.01
    settings = {"NEON_DATABASE_URL": faulty.address(url), "DATABASE_POOL_SIZE": "4"}
    program = str(Path(__file__).with_name("cancelling.py"))
    with started(program, PYTHONPATH=str(COPY), **settings) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "never" not in errors, errors
    requests, cancelled = map(int, output.split())
    assert 20 < cancelled < requests - 20
    faults.append(row(f"{cancelled} requests cancelled at random moments", requests))


def test_a_start_that_waits_for_a_lock_or_for_a_silent_server_ends_with_one_line(url: str) -> None:
    with service(NEON_DATABASE_URL=url):
        pass  # It makes the tables.
    with socket.create_server(("127.0.0.1", 0)) as silent, closing(psycopg2.connect(url)) as holder:
        holder.cursor().execute("LOCK TABLE tasks")  # as a migration does
        nowhere = f"postgresql://ada@127.0.0.1:{silent.getsockname()[1]}/todo"
        began = time.monotonic()
        with (
            started(*CHECK, NEON_DATABASE_URL=nowhere) as first,
            started(*CHECK, NEON_DATABASE_URL=url) as second,
        ):
            for process, reason in (first, "timeout expired"), (second, "lock timeout"):
                output, errors = process.communicate(timeout=30)
                assert (process.returncode, output, errors.count("\n")) == (1, "", 1), errors
                assert reason in errors
        assert time.monotonic() - began < 15


def test_30_users_at_once_see_what_they_did_and_nothing_else(
    database: Postgres, url: str, faults: list[str]
) -> None:
    with (
        service("--workers", "2", NEON_DATABASE_URL=url) as running,
        Load(running, database, url, users=30, workers=2) as load,
    ):
        time.sleep(10)
    assert not load.failures
    faults.append(load.row("none: 30 users for 10 s on two workers"))


def test_four_workers_make_the_tables_of_an_empty_database_once(database: Postgres) -> None:
    for _ in range(2):
        with service("--workers", "4", NEON_DATABASE_URL=database.create_database()) as running:
            wait_until(lambda: running.output().count(STARTED) >= 4, "all four serve")
            assert running.request("POST", json={"title": "the first"}).status_code == 201
            assert running.output().count(STARTED) == 4
            assert "cannot be used" not in running.output()


# As root, in a namespace of its own, a service may have another /etc/hosts.
WITH_HOSTS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a service another /etc/hosts")
def test_a_silent_address_of_the_databases_host_is_passed_over(
    database: Postgres, url: str, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 db.test\n127.0.0.1 db.test\n")
    ipv6 = {"family": socket.AF_INET6}
    with (
        closing(socket.create_server(("::1", database.port), backlog=0, **ipv6)) as silent,
        closing(socket.create_connection(silent.getsockname()[:2])),  # Now its queue is full.
        Service(
            prefix=(*WITH_HOSTS, str(hosts)), NEON_DATABASE_URL=url.replace("127.0.0.1", "db.test")
        ) as running,
    ):
        running.wait_until_up()
        answer = running.request("GET")
        assert answer.status_code == 200, running.output()
        assert 1 < answer.elapsed.total_seconds() < 4
        assert running.request("GET").elapsed.total_seconds() < 1
