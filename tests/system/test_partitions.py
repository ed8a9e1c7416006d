"""Where `tasks` is partitioned by its owner, each statement of the service touches one partition.

Alone: .venv/bin/pytest -m system tests/system/test_partitions.py
"""

from collections.abc import Callable, Iterator

import httpx
import pytest
from load import wait_until

from tests.harness import Postgres, Service, service

pytestmark = pytest.mark.system

PARTITIONS = 4
USERS = [f"user{n}" for n in range(16)]  # some for each partition

# The table that the service made, with the same columns; a primary key has to hold what partitions.
PARTITION = """
ALTER TABLE tasks RENAME TO plain;
CREATE TABLE tasks (
    LIKE plain INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING CONSTRAINTS,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id) REFERENCES users
) PARTITION BY HASH (user_id);
"""
# The numbers of ids stay when the old table goes.
KEEP_SEQUENCE = "ALTER SEQUENCE {} OWNED BY tasks.id"

Touched = dict[str, int]

TOUCHED = """
SELECT relname, seq_scan + coalesce(idx_scan, 0) + n_tup_ins + n_tup_upd + n_tup_del
FROM pg_stat_user_tables
WHERE relname ~ '^tasks_[0-9]$'
"""
OTHER_CONNECTIONS = """
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture(scope="module")
def url(database: Postgres) -> str:
    """Return the address of a database in which `tasks` is partitioned."""
    url = database.create_database()
    with service(NEON_DATABASE_URL=url):
        pass  # it makes the tables
    [(sequence, identity)] = database.execute(
        "SELECT pg_get_serial_sequence('tasks', 'id'), attidentity <> ''"
        " FROM pg_attribute WHERE attrelid = 'tasks'::regclass AND attname = 'id'",
        url=url,
    )
    database.execute(PARTITION, url=url)
    if not identity:
        database.execute(KEEP_SEQUENCE.format(sequence), url=url)
    database.execute("DROP TABLE plain", url=url)
    for n in range(PARTITIONS):
        values = f"WITH (MODULUS {PARTITIONS}, REMAINDER {n})"
        database.execute(f"CREATE TABLE tasks_{n} PARTITION OF tasks FOR VALUES {values}", url=url)
    return url


@pytest.fixture(scope="module")
def running(url: str) -> Iterator[Service]:
    with service(NEON_DATABASE_URL=url) as running:
        for user in USERS:
            create(running, user)
        yield running


def touched(database: Postgres, url: str) -> Touched:
    """Return how often each partition was read or written; a connection tells it at its end."""
    database.execute(f"SELECT pg_terminate_backend(pid) {OTHER_CONNECTIONS}", url=url)
    gone = f"SELECT count(*) = 0 {OTHER_CONNECTIONS}"
    wait_until(lambda: database.execute(gone, url=url) == [(True,)], "they are gone")
    return dict(database.execute(TOUCHED, url=url))


def create(running: Service, user: str) -> httpx.Response:
    return running.request("POST", user=user, json={"title": "Buy milk"})


def list_all(running: Service, user: str) -> httpx.Response:
    return running.request("GET", user=user)


def list_some(running: Service, user: str) -> httpx.Response:
    return running.request("GET", "?status=pending&sort=title", user=user)


def read(running: Service, user: str) -> httpx.Response:
    return running.request("GET", own_task(running, user), user=user)


def update(running: Service, user: str) -> httpx.Response:
    return running.request("PUT", own_task(running, user), user=user, json={"title": "Buy oats"})


def toggle(running: Service, user: str) -> httpx.Response:
    return running.request("PATCH", f"{own_task(running, user)}/complete", user=user)


def delete(running: Service, user: str) -> httpx.Response:
    create(running, user)
    return running.request("DELETE", own_task(running, user), user=user)


def own_task(running: Service, user: str) -> str:
    task = list_all(running, user).json()[0]
    return f"/{task['id']}"


REQUESTS = [create, list_all, list_some, read, update, toggle, delete]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda function: function.__name__)
def test_a_request_touches_the_one_partition_of_its_user(
    database: Postgres,
    url: str,
    running: Service,
    request_: Callable[[Service, str], httpx.Response],
) -> None:
    partitions = set()
    for user in USERS:
        before = touched(database, url)
        answer = request_(running, user)
        assert answer.is_success, answer.text
        after = touched(database, url)
        changed = {name for name in after if after[name] > before[name]}
        assert len(changed) == 1, f"{user}: {changed}"
        partitions |= changed
    assert len(partitions) == PARTITIONS, "the users are spread over all of them"


def test_an_id_is_given_once_over_all_partitions(
    database: Postgres, url: str, running: Service
) -> None:
    for user in USERS:
        create(running, user)
    counts = database.execute("SELECT count(*), count(DISTINCT id) FROM tasks", url=url)
    [(tasks, ids)] = counts
    assert tasks == ids >= len(USERS)
