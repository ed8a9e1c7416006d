"""Faults while users work: no write is lost or done twice, and every failure is a 503 in time.

Alone: .venv/bin/pytest -m system tests/system/test_faults.py
Each fault adds a line to a table at the end, and to the file that the variable FAULTS_TABLE names.
"""

import asyncio
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial

import httpx
import psutil
import psycopg2
import pytest
from load import (
    ANSWER_DUE,
    OTHERS,
    POOL,
    Answer,
    Client,
    Figures,
    LateProxy,
    Load,
    figures,
    headers,
    is_unavailable,
    path,
    wait_until,
    workers_of,
)

from tests.harness import Postgres, Service, service, token

__all__ = ["figures"]
pytestmark = pytest.mark.system

# Seconds.
DISTANCE = 0.05  # to the database and back, so that some statements are on their way
AT_ONCE = 2  # on a busy machine, but nowhere near those that a hindrance takes


@pytest.fixture
def url(database: Postgres) -> str:
    return database.create_database()


@pytest.fixture
def proxy(database: Postgres) -> Iterator[LateProxy]:
    proxy = LateProxy(database.port)
    with proxy:
        yield proxy


def terminate_every_connection(database: Postgres, url: str) -> None:
    """Do what Neon does when it suspends; return when they are gone."""
    statement = f"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"
    terminated = [pid for pid, _ in database.execute(statement, url=url)]
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)"
    wait_until(lambda: database.execute(left, terminated) == [(0,)], "they are gone")


def test_connections_that_are_terminated_every_half_second_lose_nothing(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures
) -> None:
    proxy.delay = DISTANCE
    with (
        service(NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url) as load,
    ):
        for _ in range(10):
            terminate_every_connection(database, url)
            time.sleep(DISTANCE)  # which the news has to travel, too
            load.first_request()
            time.sleep(0.5)
    assert load.failures, "no statement was interrupted"
    figures.add("every connection terminated every 0.5 s", load)


@pytest.mark.parametrize("end", ["terminated", "FIN", "RST"])
def test_connections_that_end_while_idle_fail_no_request(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures, end: str
) -> None:
    with service(NEON_DATABASE_URL=proxy.address(url)) as running:
        with Load(running, database, url) as load:
            pass
        sessions = len(load.sessions())
        if end == "terminated":
            terminate_every_connection(database, url)
        else:
            proxy.cut(reset=end == "RST")
        proxy.settle()
        with ThreadPoolExecutor(sessions) as threads:
            answers = threads.map(
                lambda n: running.request("GET", user=f"user {n}").status_code, range(sessions)
            )
        assert set(answers) == {200}
    figures.add_row(f"every connection ended while idle: {end}", sessions)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_database_loses_nothing(
    database: Postgres, url: str, figures: Figures, mode: str
) -> None:
    with service(NEON_DATABASE_URL=url) as running, Load(running, database, url) as load:
        for down in (0, 1.5):
            database.stop(mode)
            time.sleep(down)
            database.start()
            load.first_request()
            time.sleep(1)
    assert load.failures
    figures.add(f"PostgreSQL restarted twice, {mode}", load)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_connections_that_are_cut_lose_nothing(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures, reset: bool
) -> None:
    proxy.delay = DISTANCE
    with (
        service(NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url) as load,
    ):
        for _ in range(10):
            proxy.cut(reset)
            proxy.settle()
            load.first_request()
            time.sleep(0.5)
    assert load.failures, "no statement was interrupted"
    figures.add(f"every connection cut with {'RST' if reset else 'FIN'} every 0.5 s", load)


@pytest.mark.parametrize("end", ["FIN", "RST", "silence"])
def test_a_write_whose_answer_is_lost_is_not_done_again(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures, end: str
) -> None:
    with (
        service(NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url) as load,
    ):
        for _ in range(1 if end == "silence" else 10):
            proxy.answers_lost = True
            time.sleep(0.1)
            proxy.answers_lost = False
            if end != "silence":
                proxy.cut(reset=end == "RST")
                proxy.settle()
            load.first_request()
            time.sleep(0.4)
        if end == "silence":
            # The connections live on. Whoever uses one again takes a later answer for his own.
            time.sleep(5)
    assert load.done_all_the_same, "no answer was lost"
    figures.add(f"{end} after the statement, before its answer", load)


def test_a_database_that_accepts_and_never_answers_is_told_as_503_in_time(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures
) -> None:
    with (
        service(NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url) as load,
    ):
        proxy.silent = True
        before = proxy.connections
        time.sleep(7)
        new = proxy.connections - before
        assert running.client.get("/health").elapsed.total_seconds() < AT_ONCE
        proxy.silent = False
        load.first_request()
        time.sleep(1)
    assert load.failures["503"] >= 2 * len(load.tasks)
    assert new, "only old connections met the silence"
    figures.add("a database that accepts and never answers, for 7 s", load)


def test_a_database_that_comes_up_3_s_late_is_waited_for(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures
) -> None:
    proxy.late = 3
    with service(NEON_DATABASE_URL=proxy.address(url)) as running:
        proxy.cut()
        proxy.settle()
        with Load(running, database, url) as load:
            proxy.cut()
            proxy.settle()
            load.first_request()
            time.sleep(3)
    assert load.slowest > proxy.late
    # What was in flight when they were cut, and nothing that came later, which found no connection.
    assert sum(load.failures.values()) <= 2 * len(load.tasks), load.failures
    figures.add("a database that comes up 3 s late, at start and under load", load)


def test_a_worker_that_is_killed_loses_only_what_it_was_doing(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures
) -> None:
    proxy.delay = DISTANCE
    with (
        service("--workers", "4", NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url, workers=4) as load,
    ):
        load.may_lose_connections = True
        busiest = max(workers_of(running), key=psutil.Process.num_fds)
        busiest.kill()
        wait_until(
            lambda: not psutil.pid_exists(busiest.pid), "it is dead, and its connections closed"
        )
        load.first_request()
        wait_until(
            lambda: running.output().count("Application startup complete") == 5,
            "another has taken its place",
        )
        assert len(workers_of(running)) == 4
        time.sleep(1)
    assert load.failures.keys() == {"connection lost"}
    assert sum(load.failures.values()) <= 2 * len(load.tasks)
    figures.add("one of four workers killed with -9", load)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_what_is_in_flight_and_closes_every_connection(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures, workers: int
) -> None:
    with service("--workers", str(workers), NEON_DATABASE_URL=proxy.address(url)) as running:
        wait_until(
            lambda: running.output().count("Application startup complete") == workers,
            "every worker serves",
        )
        requests = [
            partial(running.request, "POST", user=f"user {n}", json={"title": "in flight"})
            for n in range(10)
        ]
        requests += [partial(running.request, "GET", user=f"user {n}") for n in range(5)]
        asked = proxy.round_trips
        proxy.delay = 0.8  # a new connection takes two round trips before the statement's own
        with ThreadPoolExecutor(len(requests)) as threads:
            answers = [threads.submit(request) for request in requests]
            wait_until(
                lambda: proxy.round_trips >= asked + len(requests), "every request is in flight"
            )
            running.process.send_signal(signal.SIGTERM)
            statuses = [answer.result().status_code for answer in answers]
        assert statuses == [201] * 10 + [200] * 5
        assert running.process.wait(10) in (0, -signal.SIGTERM)
        proxy.settle()
        assert database.execute("SELECT count(*) FROM tasks", url=url) == [(10,)]
        left = f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}"
        wait_until(lambda: database.execute(left, url=url) == [(0,)], "every connection is closed")
        # Closed by the service, that is, and not by the system after it.
        lost = "SELECT sessions_abandoned FROM pg_stat_database WHERE datname = current_database()"
        assert database.execute(lost, url=url) == [(0,)]
        assert "Traceback" not in running.output(), running.output()
    figures.add_row(f"SIGTERM with requests in flight, workers: {workers}", len(requests))


def test_four_workers_that_start_on_an_empty_database_make_the_tables_once(
    database: Postgres, figures: Figures
) -> None:
    for _ in range(3):
        url = database.create_database()
        with service("--workers", "4", NEON_DATABASE_URL=url) as running:
            wait_until(
                lambda: running.output().count("Application startup complete") >= 4,
                "all four serve",
            )
            assert running.request("POST", json={"title": "the first"}).status_code == 201
            assert running.output().count("Application startup complete") == 4
            assert not re.search("Traceback|ERROR|died", running.output()), running.output()
    figures.add_row("four workers start on an empty database, three times", 3)


def test_a_locked_row_that_60_requests_want_holds_up_nobody_else(
    database: Postgres, url: str, figures: Figures
) -> None:
    async def want(task: int) -> list[tuple[Answer, float]]:
        async def toggle() -> tuple[Answer, float]:
            client = Client(running, "ada")
            began = time.monotonic()
            answer = await client.request("PATCH", f"/{task}/complete")
            client.close()
            return answer, time.monotonic() - began

        return await asyncio.gather(*(toggle() for _ in range(60)))

    def refused_at_once() -> None:
        for status, authorization in (401, "Bearer none"), (403, f"Bearer {token('eve')}"):
            answer = running.request("GET", headers={"Authorization": authorization})
            assert answer.status_code == status
            assert answer.elapsed.total_seconds() < AT_ONCE

    with (
        service(NEON_DATABASE_URL=url) as running,
        ThreadPoolExecutor(1) as threads,
        Load(running, database, url) as load,
        closing(psycopg2.connect(url)) as holder,
    ):
        task = running.request("POST", json={"title": "wanted"}).json()["id"]
        holder.cursor().execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", [task])
        for _ in range(7):
            wave = threads.submit(lambda: asyncio.run(want(task)))
            while not wave.done():
                refused_at_once()
                time.sleep(0.1)
            for answer, seconds in wave.result():
                assert is_unavailable(answer), answer.text
                assert seconds < ANSWER_DUE
        wave = threads.submit(lambda: asyncio.run(want(task)))
        time.sleep(1)
        holder.rollback()
        assert {answer.status_code for answer, _ in wave.result()} == {200}
        # What was told as 503 may have been done after all, but once at the most.
        completed = running.request("PATCH", f"/{task}/complete").json()["completed"]
        toggles = database.execute(
            "SELECT count(*) - 1 FROM witness WHERE user_id = 'ada'", url=url
        )[0][0]
        assert 60 + 1 <= toggles <= 60 + 1 + 420
        assert completed == (toggles % 2 == 1)
    assert not load.failures
    assert load.slowest < AT_ONCE
    figures.add_row(
        "one row locked for 30 s, which 60 requests at a time want", 480, Counter({"503": 420})
    )
    figures.add("the other users meanwhile", load)


def send(running: Service, message: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), 10)
    connection.sendall(message)
    return connection


def message(user: str, body: bytes, length: int = 0, authorization: str = "") -> bytes:
    """Return a POST; with `length`, one that announces more than it sends."""
    return (
        f"POST {path(user)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization or headers(user)['Authorization']}\r\n"
        f"Content-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def test_200_clients_that_never_finish_their_request_hold_up_nobody(
    database: Postgres, url: str, figures: Figures
) -> None:
    whole = message("ada", b'{"title": "never finished"}')
    unfinished = [b"", whole[:20], whole[: whole.index(b"\r\n\r\n")], whole[:-1]]
    with (
        service(NEON_DATABASE_URL=url) as running,
        Load(running, database, url) as load,
        ExitStack() as stack,
    ):
        before = descriptors(running)
        for n in range(200):
            stack.enter_context(send(running, unfinished[n % len(unfinished)]))
        wait_until(lambda: descriptors(running) >= before + 200, "all are connected")
        time.sleep(4)
        stack.close()
        wait_until(lambda: descriptors(running) <= before + POOL, "all are forgotten")
    assert not load.failures
    assert load.slowest < AT_ONCE
    assert database.execute("SELECT count(*) FROM tasks WHERE user_id = 'ada'", url=url) == [(0,)]
    figures.add("200 clients that never finish their request: the other users", load)


def descriptors(running: Service) -> int:
    return int(psutil.Process(running.process.pid).num_fds())


def test_40_clients_that_hang_up_leave_nothing_behind(
    database: Postgres, proxy: LateProxy, url: str, figures: Figures
) -> None:
    proxy.delay = 0.2
    with (
        service(NEON_DATABASE_URL=proxy.address(url)) as running,
        Load(running, database, url) as load,
    ):
        for n in range(40):
            connection = send(
                running, message(f"guest {n % 10}".replace(" ", ""), b'{"title": "guest %d"}' % n)
            )
            time.sleep(0.05)
            if n % 2:  # with RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        time.sleep(1)
    assert not load.failures
    titles = [
        title
        for (title,) in database.execute(
            "SELECT title FROM tasks WHERE user_id LIKE 'guest%%'", url=url
        )
    ]
    assert len(titles) == len(set(titles)) <= 40
    figures.add("40 clients that hang up: the other users", load)


def test_a_flood_of_large_bodies_without_a_token_holds_up_nobody(
    database: Postgres, url: str, figures: Figures
) -> None:
    bodies = [b'{"title": "%s"}' % (b"a" * (65536 - 13)), b"[" * 65536, b"\xff" * 65536]

    async def flood() -> set[int]:
        async def client(n: int) -> set[int]:
            statuses = set()
            async with httpx.AsyncClient(base_url=running.url, timeout=15) as client:
                while time.monotonic() < end:
                    body = bodies[n % len(bodies)]
                    answer = await client.post(
                        path("ada"), content=body, headers={"Content-Type": "application/json"}
                    )
                    statuses.add(answer.status_code)
                    n += 1
            return statuses

        return set().union(*await asyncio.gather(*map(client, range(8))))

    with service(NEON_DATABASE_URL=url) as running, Load(running, database, url) as load:
        memory = psutil.Process(running.process.pid).memory_info
        before, end = memory().rss, time.monotonic() + 5
        assert asyncio.run(flood()) == {401}
        assert memory().rss < before + 50 * 2**20
    assert not load.failures
    assert load.slowest < AT_ONCE
    figures.add("a flood of 64 KiB bodies without a token: the other users", load)
