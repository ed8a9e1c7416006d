"""Where `tasks` is partitioned by its owner, each request of a user touches one partition."""

from collections.abc import Iterator
from typing import Any

import pytest
from load import SESSIONS, wait_until

from tests.harness import Postgres, Service, service

pytestmark = pytest.mark.system

PARTITIONS = 4
# The table that the service has made, with the same columns and the numbers of ids that follow. A
# primary key has to hold what partitions.
PARTITION = """
    ALTER TABLE tasks RENAME TO plain;
    CREATE TABLE tasks (
        LIKE plain INCLUDING DEFAULTS,
        PRIMARY KEY (user_id, id),
        FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
    ) PARTITION BY HASH (user_id);
    ALTER SEQUENCE tasks_id_seq OWNED BY tasks.id;
    DROP TABLE plain;
"""
TOUCHED = """
    SELECT relname, seq_scan + coalesce(idx_scan, 0) + n_tup_ins + n_tup_upd + n_tup_del
    FROM pg_stat_user_tables
    WHERE relname ~ '^tasks_[0-9]$'
"""
REQUESTS = {
    "create": ("POST", "", {"title": "Buy oats"}),
    "list": ("GET", "", None),
    "list some": ("GET", "?status=pending&sort=title", None),
    "read": ("GET", "/{id}", None),
    "update": ("PUT", "/{id}", {"title": "Buy oats"}),
    "toggle": ("PATCH", "/{id}/complete", None),
    "delete": ("DELETE", "/{id}", None),
}


@pytest.fixture(scope="module")
def partitioned(database: Postgres) -> Iterator[Service]:
    url = database.create_database()
    with service(NEON_DATABASE_URL=url):
        pass  # it makes the tables
    database.execute(PARTITION, url=url)
    for n in range(PARTITIONS):
        values = f"WITH (MODULUS {PARTITIONS}, REMAINDER {n})"
        database.execute(f"CREATE TABLE tasks_{n} PARTITION OF tasks FOR VALUES {values}", url=url)
    with service(NEON_DATABASE_URL=url) as running:
        yield running
        counts = database.execute("SELECT count(*), count(DISTINCT id) FROM tasks", url=url)
        assert counts[0][0] == counts[0][1]


def touched(database: Postgres, url: str) -> dict[str, int]:
    """Return how often each partition was used; a connection tells it at its end."""
    database.execute(f"SELECT pg_terminate_backend(pid) {SESSIONS}", url=url)
    left = f"SELECT count(*) {SESSIONS}"
    wait_until(lambda: database.execute(left, url=url) == [(0,)], "they are gone")
    return dict(database.execute(TOUCHED, url=url))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_touches_the_one_partition_of_its_user(
    database: Postgres, partitioned: Service, name: str
) -> None:
    method, path, body = REQUESTS[name]
    partitions = set()
    for n in range(12):
        user = f"user-{n}"
        task: dict[str, Any] = partitioned.request("POST", user=user, json={"title": "x"}).json()
        before = touched(database, partitioned.database)
        answer = partitioned.request(method, path.format(id=task["id"]), user, json=body)
        assert answer.is_success, answer.text
        after = touched(database, partitioned.database)
        [partition] = [name for name in after if after[name] > before[name]]
        partitions.add(partition)
    assert len(partitions) == PARTITIONS, "the users are spread over all of them"
