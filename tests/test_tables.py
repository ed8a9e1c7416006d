"""Tables that somebody else made: what fits works, what does not is one line; and the plans."""

import re

import pytest

from backend.routes import tasks
from tests.harness import FRONTEND
from tests.tables import MENDED_BY, headers, refusal_by, use_all_six_routes

WORD = "hunter2"  # stands in every title and e-mail, and in no log


@pytest.fixture(scope="module")
def by_the_book(starting_mended):
    """The service on tables by the book, after the statement in that line has mended them."""
    return starting_mended.wait_until_up()


def test_what_does_not_fit_is_one_line_with_the_statement_that_mends_it(
    starting_check_of_faults,
):
    assert refusal_by(starting_check_of_faults) == (
        "The table tasks: title must be VARCHAR(200), "
        "created_at must be TIMESTAMP WITH TIME ZONE, "
        "updated_at must be TIMESTAMP WITH TIME ZONE, "
        f"priority must not be required. This mends it: {MENDED_BY}"
    )


def test_tables_by_the_book_that_were_mended_serve_all_six_routes(by_the_book, user):
    use_all_six_routes(by_the_book, user)


# What happens to the tables while the service runs, how it is undone, and which error it gives.
CHANGES = {
    "a column dropped": (
        "ALTER TABLE tasks RENAME description TO gone",
        "ALTER TABLE tasks RENAME gone TO description",
        "UndefinedColumn",
    ),
    "a table dropped": (
        "ALTER TABLE tasks RENAME TO gone",
        "ALTER TABLE gone RENAME TO tasks",
        "UndefinedTable",
    ),
    "a type changed": (
        "ALTER TABLE tasks ALTER completed TYPE integer USING completed::integer",
        "ALTER TABLE tasks ALTER completed TYPE boolean USING completed::boolean",
        "DatatypeMismatch",
    ),
    "a type shortened": (
        "ALTER TABLE tasks ALTER title TYPE varchar(4)",
        "ALTER TABLE tasks ALTER title TYPE varchar(200)",
        "StringDataRightTruncation",
    ),
    "a right revoked": (
        "REVOKE INSERT ON tasks FROM CURRENT_USER",
        "GRANT INSERT ON tasks TO CURRENT_USER",
        "InsufficientPrivilege",
    ),
    "a constraint added": (
        "ALTER TABLE tasks ADD CONSTRAINT short CHECK (length(title) < 5)",
        "ALTER TABLE tasks DROP CONSTRAINT short",
        "CheckViolation",
    ),
    "a required column added": (
        "ALTER TABLE tasks ADD due date NOT NULL DEFAULT now();"
        "ALTER TABLE tasks ALTER due DROP DEFAULT",
        "ALTER TABLE tasks DROP due",
        "NotNullViolation",
    ),
}


@pytest.mark.parametrize(("change", "undo", "error"), CHANGES.values(), ids=CHANGES)
def test_a_table_that_is_changed_later_is_a_500_and_a_traceback_without_what_users_wrote(
    by_the_book, database, user, change, undo, error
):
    written = {"title": WORD, "description": WORD}
    known = headers(user, email=f"{WORD}{user}@example.com", name=WORD) | {"Origin": FRONTEND}
    before = len(by_the_book.output())
    database.execute(change, url=by_the_book.database)
    try:
        answer = by_the_book.request("POST", "", user, json=written, headers=known)
        log = by_the_book.output()[before:]
    finally:
        database.execute(undo, url=by_the_book.database)
    assert answer.status_code == 500
    assert list(answer.json()) == ["detail"]
    assert type(answer.json()["detail"]) is str
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert "Retry-After" not in answer.headers
    assert error in log
    assert "in create_task" in log
    assert WORD not in log
    task = by_the_book.request("POST", "", user, json=written, headers=known).json()
    assert by_the_book.request("DELETE", f"/{task['id']}", user).status_code == 204


OWNERS = "INSERT INTO users (id) SELECT %s || n FROM generate_series(1, 200) AS n"
THEIR_TASKS = """
    INSERT INTO tasks (user_id, title)
    SELECT %s || mod(n, 200) + 1, 'x' FROM generate_series(1, 20000) AS n
"""
LISTS = [
    (statement, {"completed_values": completed})
    for statement in (tasks.LIST, tasks.LIST_BY_TITLE)
    for completed in tasks.COMPLETED_VALUES.values()
]
OTHERS = [
    (statement, {})
    for statement in tasks.STATEMENTS
    if statement not in (tasks.LIST, tasks.LIST_BY_TITLE, tasks.CREATE)
]

BY_INDEX = "SET enable_bitmapscan = off; SET enable_seqscan = off;"


@pytest.fixture(scope="module")
def among_many(api, database):
    """Return the database of the service with 20,000 tasks of 200 users, of whom many-1 is one."""
    for statement in (OWNERS, THEIR_TASKS):
        database.execute(statement, "many-", url=api.database)
    database.execute("VACUUM ANALYZE tasks, users", url=api.database)
    return api.database


def explain(database, url: str, statement: str, values: dict, setting: str = "") -> str:
    """Return the plan of a statement of the user many-1, in the words that the service sends."""
    values = tasks.TRIAL | {"user_id": "many-1"} | values
    rows = database.execute(f"{setting} EXPLAIN {statement}", url=url, **values)
    return "\n".join(row[0] for row in rows)


def tables_read(plan: str) -> list[str]:
    """Return how a plan gets at rows; one by a bitmap of an index counts once."""
    return re.findall(r"(Seq Scan|Index Scan|Index Only Scan|Bitmap Index Scan)", plan)


@pytest.mark.parametrize(("statement", "values"), LISTS + OTHERS)
def test_each_statement_is_one_index_scan_among_the_tasks_of_many_users(
    among_many, database, statement, values
):
    plan = explain(database, among_many, statement, values)
    assert len(tables_read(plan)) == 1, plan
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("completed", tasks.COMPLETED_VALUES.values(), ids=tasks.COMPLETED_VALUES)
def test_an_index_gives_newest_first_without_sorting(among_many, database, completed):
    """PostgreSQL may find it cheaper to fetch rows in the order of the disk, and sort those."""
    values = {"completed_values": completed}
    plan = explain(database, among_many, tasks.LIST, values, BY_INDEX)
    assert "Index Scan Backward using ix_tasks_user_id_id" in plan, plan
    assert "Sort" not in plan, plan


def test_creating_a_task_counts_the_users_tasks_by_an_index(among_many, database):
    plan = explain(database, among_many, tasks.CREATE, {})
    assert len(tables_read(plan)) == 2, plan
    assert "Index Only Scan using ix_tasks_user_id_id on tasks" in plan, plan
    assert "Index Only Scan using users_pkey on users" in plan, plan


def test_a_task_may_have_any_id_that_javascript_counts_exactly(api, database, user):
    last = (
        f"INSERT INTO users (id) VALUES ('{user}')",
        (f"INSERT INTO tasks (id, user_id, title) VALUES ({tasks.MAX_TASK_ID}, '{user}', 'x')"),
    )
    for statement in last:
        database.execute(statement, url=api.database)
    answer = api.request("GET", f"/{tasks.MAX_TASK_ID}", user)
    assert answer.json()["id"] == tasks.MAX_TASK_ID
