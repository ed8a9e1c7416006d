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
COLUMNS = "user_id, title, description, completed, created_at, updated_at"
TASK = "'Task', 'Milk, eggs and bread', false, now(), now()"  # what follows user_id
# The ids are given where load.lua must know them.
ADD_TASKS = f"""
INSERT INTO tasks (id, {COLUMNS})
SELECT n, 'u' || (n - 1) / %(size)s + 1, {TASK}
FROM generate_series(1, %(users)s * %(size)s) AS n
"""
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence('tasks', 'id'), %(users)s * %(size)s + 1)"
ADD_TASKS_OF_WRITERS = f"""
INSERT INTO tasks (id, {COLUMNS})
SELECT 1000000000 + n, 'w' || mod(n, %(users)s) + 1, {TASK}
FROM generate_series(0, %(count)s - 1) AS n
"""
# As a replica PostgreSQL runs no triggers, so that each row costs no look at the foreign key.
ADD_CROWD = f"""
SET session_replication_role = replica;
INSERT INTO tasks ({COLUMNS})
SELECT 'other' || mod(n, %(others)s), {TASK}
FROM generate_series(1, %(rows)s) AS n
"""
INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index
WHERE indrelid = 'tasks'::regclass AND NOT indisprimary
"""


def seed(database: Postgres, url: str, model: str, size: int) -> None:
    """Give each of the users u1, u2, ... `size` tasks, with ids from 1 up."""
    ids = [f"{kind}{n}" for kind in "uw" for n in range(1, USERS + 1)]
    ids += [f"other{n}" for n in range(OTHERS)]
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


def renew_tasks_of_writers(database: Postgres, url: str, count: int) -> None:
    """Leave w1, w2, ... `count` tasks in all, so that each round begins alike."""
    database.execute("DELETE FROM tasks WHERE starts_with(user_id, 'w')", url=url)
    database.execute(ADD_TASKS_OF_WRITERS, url=url, users=USERS, count=count)
    database.execute("VACUUM ANALYZE tasks", url=url)
