"""The rows that the servers work on."""

from tests.harness import Postgres

USERS = 50  # u1, u2, ... who keep their tasks, and as many w1, w2, ... whose tasks come and go
OTHERS = 1000  # to whom all other rows belong

# A copy of a user whom the server itself has made, so that no column needs to be known here.
COPY_USER = """
INSERT INTO users
SELECT (jsonb_populate_record(model, jsonb_build_object('id', new_id))).*
FROM users AS model, unnest(%(ids)s) AS new_id
WHERE model.id = %(model)s
"""
# The ids are given, for a second worker that starts meanwhile may take one of the sequence's.
ADD_TASKS = """
INSERT INTO tasks (id, user_id, title, description, completed, created_at, updated_at)
SELECT n, 'u' || (n - 1) / %(size)s + 1, 'Task', 'Milk, eggs and bread', false, now(), now()
FROM generate_series(1, %(users)s * %(size)s) AS n
"""
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence('tasks', 'id'), %(users)s * %(size)s + 1)"
# As a replica PostgreSQL runs no triggers, so that each row costs no look at the foreign key.
ADD_CROWD = """
SET session_replication_role = replica;
INSERT INTO tasks (user_id, title, description, completed, created_at, updated_at)
SELECT 'other' || mod(n, %(others)s), 'Task', 'Milk, eggs and bread', false, now(), now()
FROM generate_series(1, %(rows)s) AS n
"""
INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index
WHERE indrelid = 'tasks'::regclass AND NOT indisprimary
"""


def seed(database: Postgres, url: str, model: str, size: int) -> None:
    """Give each of the users u1, u2, ... `size` tasks, with ids from 1 up."""
    keepers = [f"u{n}" for n in range(1, USERS + 1)]
    writers = [f"w{n}" for n in range(1, USERS + 1)]
    others = [f"other{n}" for n in range(OTHERS)]
    ids = keepers + writers + others
    database.execute("TRUNCATE tasks RESTART IDENTITY", url=url)
    database.execute(COPY_USER, url=url, ids=ids, model=model)
    database.execute(ADD_TASKS, url=url, users=USERS, size=size)
    database.execute(SET_SEQUENCE, url=url, users=USERS, size=size)
    database.execute("VACUUM ANALYZE", url=url)


def add_crowd(database: Postgres, url: str, rows: int) -> None:
    """Add tasks of other users, and make the indexes afterwards, which is faster."""
    indexes = database.execute(INDEXES, url=url)
    for name, _ in indexes:
        database.execute(f"DROP INDEX {name}", url=url)
    database.execute(ADD_CROWD, url=url, rows=rows, others=OTHERS)
    for _, definition in indexes:
        database.execute(f"SET maintenance_work_mem = '1GB'; {definition}", url=url)
    database.execute("VACUUM ANALYZE", url=url)


def forget_new_tasks(database: Postgres, url: str) -> None:
    """Delete the tasks of w1, w2, ..., so that each round of writing begins alike."""
    database.execute("DELETE FROM tasks WHERE starts_with(user_id, 'w')", url=url)
    database.execute("VACUUM ANALYZE tasks", url=url)
