"""Several workers of one service: they start, share a database, and end, as one does."""

import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psutil
import pytest
from load import SESSIONS, Load, row, wait_until
from programs import running_program

from tests import COPY
from tests.harness import (
    Postgres,
    Proxy,
    Service,
    client_of,
    environment_of_service,
    free_port,
    service,
    token,
)

pytestmark = pytest.mark.system

STARTED = "Application startup complete"


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


def at_once(running: Service, *requests: tuple[str, str, dict[str, Any] | None]) -> Counter[int]:
    """Send these requests of one user at the same time; count the statuses of the answers."""
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = threads.map(lambda each: running.request(*each[:2], json=each[2]), requests)
        return Counter(answer.status_code for answer in answers)


def test_what_one_user_asks_for_at_once_is_done_once_each(url: str) -> None:
    with service("--workers", "2", NEON_DATABASE_URL=url) as running:
        # Nobody has made the user's row yet, and all try.
        assert at_once(running, *[("POST", "", {"title": "x"})] * 20) == {201: 20}
        tasks = running.request("GET").json()
        assert len(tasks) == 20
        path = f"/{tasks[0]['id']}"
        assert at_once(running, *[("PATCH", f"{path}/complete", None)] * 31) == {200: 31}
        assert running.request("GET", path).json()["completed"] is True
        assert at_once(running, *[("DELETE", path, None)] * 20) == {204: 1, 404: 19}


def test_four_workers_make_the_tables_of_an_empty_database_once(database: Postgres) -> None:
    for _ in range(2):
        with service("--workers", "4", NEON_DATABASE_URL=database.create_database()) as running:
            wait_until(lambda: running.output().count(STARTED) >= 4, "all four serve")
            assert running.request("POST", json={"title": "the first"}).status_code == 201
            assert running.output().count(STARTED) == 4
            assert "Traceback" not in running.output()


def workers_of(running: Service) -> list[psutil.Process]:
    """Return the processes that serve, without multiprocessing's tracker."""
    children = psutil.Process(running.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_worker_that_is_killed_loses_only_what_it_was_doing(
    database: Postgres, faulty: Proxy, url: str, faults: list[str]
) -> None:
    faulty.delay = 0.05
    with (
        service("--workers", "4", NEON_DATABASE_URL=faulty.address(url)) as running,
        Load(running, database, url, workers=4) as load,
    ):
        load.explained.add("connection lost")
        victim = max(workers_of(running), key=psutil.Process.num_fds)  # the busiest
        victim.kill()
        wait_until(lambda: not victim.is_running(), "its connections are closed")
        load.check_first_request()
        wait_until(lambda: running.output().count(STARTED) == 5, "another takes its place")
        time.sleep(1)
    assert load.failures.keys() == {"connection lost"}
    assert load.failures.total() <= len(load.tasks)
    faults.append(load.row("one of four workers killed with -9"))


def test_sigterm_finishes_what_is_in_flight_and_closes_every_connection(
    database: Postgres, faulty: Proxy, url: str, faults: list[str]
) -> None:
    with service("--workers", "2", NEON_DATABASE_URL=faulty.address(url)) as running:
        wait_until(lambda: running.output().count(STARTED) == 2, "both workers serve")
        asked = faulty.round_trips
        faulty.delay = 0.8  # a new connection takes two round trips before the statement's own
        with ThreadPoolExecutor(15) as threads:
            create = partial(running.request, "POST", json={"title": "in flight"})
            answers = [threads.submit(create, user=f"user-{n}") for n in range(15)]
            wait_until(lambda: faulty.round_trips >= asked + 15, "every request is in flight")
            running.process.send_signal(signal.SIGTERM)
            assert {answer.result().status_code for answer in answers} == {201}
        assert running.process.wait(10) in (0, -signal.SIGTERM)
        assert database.execute("SELECT count(*) FROM tasks", url=url) == [(15,)]
        left = f"SELECT count(*) {SESSIONS}"
        wait_until(lambda: database.execute(left, url=url) == [(0,)], "every connection is closed")
        assert "Traceback" not in running.output()
    faults.append(row("SIGTERM with requests in flight, two workers", 15))


def test_the_workers_that_gunicorn_forks_after_the_import_share_nothing(url: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=3"]
    command += ["--worker-class=uvicorn_worker.UvicornWorker", f"--bind=127.0.0.1:{port}"]
    environment = environment_of_service(NEON_DATABASE_URL=url)
    with client_of(f"http://127.0.0.1:{port}") as client:

        def create(user: str) -> str:
            headers = {"Authorization": f"Bearer {token(user)}", "Connection": "close"}
            path = f"/api/{user}/tasks"
            return str(client.post(path, headers=headers, json={"title": "x"}).json()["user_id"])

        with (
            running_program(
                [*command, "backend.main:app"],
                lambda: client.get("/health").is_success,
                cwd=COPY,
                env=environment,
            ),
            ThreadPoolExecutor(8) as threads,
        ):
            users = [f"user-{number % 20}" for number in range(200)]
            assert list(threads.map(create, users)) == users
