"""The rows that the servers work on."""

from tests.harness import Postgres

# Of u1, u2, ... each has so many tasks; those of w1, w2, ... come and go.
USERS = 50
TASKS = 100

COLUMNS = "user_id, title, description, completed, created_at, updated_at"
TASK = "'Task', 'Milk, eggs and bread', false, now(), now()"  # what follows user_id
# The ids are given where load.lua must know them.
SEED = f"""
    INSERT INTO users (id)
    SELECT kind || n FROM unnest(ARRAY['u', 'w']) AS kind, generate_series(1, {USERS}) AS n;

    INSERT INTO tasks (id, {COLUMNS})
    SELECT n, 'u' || (n - 1) / {TASKS} + 1, {TASK} FROM generate_series(1, {USERS * TASKS}) AS n;

    SELECT setval('tasks_id_seq', {USERS * TASKS + 1});
"""
RENEW = f"""
    DELETE FROM tasks WHERE starts_with(user_id, 'w');

    INSERT INTO tasks (id, {COLUMNS})
    SELECT 1000000000 + n, 'w' || mod(n, {USERS}) + 1, {TASK}
    FROM generate_series(0, %(count)s - 1) AS n;
"""


def seed(database: Postgres, url: str) -> None:
    """Make the users, and the tasks of u1, u2, ..., with ids from 1 up."""
    database.execute(SEED, url=url)
    database.execute("VACUUM ANALYZE", url=url)


def renew_tasks_of_writers(database: Postgres, url: str, count: int) -> None:
    """Leave w1, w2, ... `count` tasks in all, so that each round begins alike."""
    database.execute(RENEW, url=url, count=count)
    database.execute("VACUUM ANALYZE tasks", url=url)
