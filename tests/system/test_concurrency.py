"""Many users at once on two workers: every answer is the one that each would get alone.

Alone: .venv/bin/pytest -m system tests/system/test_concurrency.py
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from load import Figures, Load, figures

from tests.harness import Postgres, Service, service

__all__ = ["figures"]
pytestmark = pytest.mark.system


def test_50_users_at_once_for_30_s_each_see_what_they_did_and_nothing_else(
    database: Postgres, figures: Figures
) -> None:
    url = database.create_database()
    with (
        service("--workers", "2", NEON_DATABASE_URL=url) as running,
        Load(running, database, url, users=50, readers=False, workers=2) as load,
    ):
        time.sleep(30)
    assert not load.failures
    assert load.requests > 50 * 60
    figures.add("none: 50 users for 30 s on two workers", load)


@pytest.fixture(scope="module")
def two_workers(database: Postgres) -> Iterator[Service]:
    with service("--workers", "2", NEON_DATABASE_URL=database.create_database()) as running:
        yield running


def at_once(
    running: Service, user: str, *requests: tuple[str, str, dict[str, Any] | None]
) -> Counter[int]:
    """Send these requests of one user at the same time; count the statuses of the answers."""
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = [
            threads.submit(running.request, method, path, user, json=body)
            for method, path, body in requests
        ]
        return Counter(answer.result().status_code for answer in answers)


def test_every_toggle_counts(two_workers: Service) -> None:
    task = two_workers.request("POST", user="toggles", json={"title": "toggled"}).json()["id"]
    toggle = ("PATCH", f"/{task}/complete", None)
    for count, completed in ((30, False), (31, True)):
        assert at_once(two_workers, "toggles", *[toggle] * count) == {200: count}
        row = two_workers.request("GET", f"/{task}", "toggles").json()
        assert row["completed"] is completed


def test_changes_of_different_fields_do_not_undo_each_other(two_workers: Service) -> None:
    for _ in range(10):
        task = two_workers.request("POST", user="fields", json={"title": "old"}).json()["id"]
        changes = [("title", "new"), ("description", "new"), ("completed", True)]
        requests = [("PUT", f"/{task}", {field: value}) for field, value in changes]
        assert at_once(two_workers, "fields", *requests) == {200: 3}
        row = two_workers.request("GET", f"/{task}", "fields").json()
        assert [row[field] for field, _ in changes] == ["new", "new", True]


def test_a_new_user_may_start_with_many_tasks_at_once(two_workers: Service) -> None:
    with closing(psycopg2.connect(two_workers.database)) as holder:
        # Nobody can see this row yet, and all wait to learn whether it stays.
        holder.cursor().execute("INSERT INTO users (id) VALUES ('new')")
        timer = threading.Timer(1, holder.commit)
        timer.start()
        assert at_once(two_workers, "new", *[("POST", "", {"title": "first"})] * 20) == {201: 20}
        timer.join()
    assert len(two_workers.request("GET", user="new").json()) == 20


def test_a_task_is_deleted_once(two_workers: Service) -> None:
    task = two_workers.request("POST", user="deletes", json={"title": "deleted"}).json()["id"]
    delete = ("DELETE", f"/{task}", None)
    assert at_once(two_workers, "deletes", *[delete] * 20) == {204: 1, 404: 19}
