"""Tables that somebody else made: what fits works, and what does not is one line."""

import pytest

from backend import db, settings
from tests.conftest import BY_THE_BOOK
from tests.harness import FRONTEND, NOWHERE, Postgres, Service, token

WORD = "hunter2"  # stands in titles and addresses, and in no log


def known(user: str, **claims: str) -> dict[str, str]:
    """Return the header with a token that names an address, as Better Auth's does."""
    claims = {"email": f"{user}@example.com"} | claims
    return {"Authorization": f"Bearer {token(user, **claims)}", "Origin": FRONTEND}


def test_times_without_a_zone_are_utc_in_every_answer(remote, database, user):
    (hers,) = remote.request("GET", "", "eve").json()
    assert hers["created_at"] == "2026-01-02T03:04:05Z"
    assert hers["updated_at"] == "2026-01-02T03:04:05.5Z"
    sent = {"title": "x"}
    created = remote.request("POST", "", user, json=sent, headers=known(user)).json()
    path = f"/{created['id']}"
    changed = remote.request("PUT", path, user, json={"description": "y"}).json()
    toggled = remote.request("PATCH", f"{path}/complete", user).json()
    assert toggled == remote.request("GET", path, user).json()
    for task in (created, changed, toggled):
        assert task["created_at"] == created["created_at"]
        assert task["updated_at"].endswith("Z")
    age = "SELECT abs(extract(epoch FROM updated_at - now() AT TIME ZONE 'UTC')) FROM tasks"
    [(seconds,)] = database.execute(f"{age} WHERE id = %s", created["id"], url=remote.database)
    assert seconds < 60


def test_a_task_whose_completed_is_null_is_pending_until_it_is_completed(remote, database):
    def titles(parameters: str) -> list[str]:
        return [task["title"] for task in remote.request("GET", parameters, "zoe").json()]

    (hers,) = remote.request("GET", "", "zoe").json()
    path = f"/{hers['id']}"
    assert hers["completed"] is False
    assert remote.request("GET", path, "zoe").json()["completed"] is False
    assert titles("?status=all") == titles("?status=pending") == ["Hers"]
    assert titles("?status=completed") == []
    changed = remote.request("PUT", path, "zoe", json={"description": "x"}).json()
    assert changed["completed"] is False
    database.execute("UPDATE tasks SET completed = NULL WHERE user_id = 'zoe'", url=remote.database)
    assert remote.request("PATCH", f"{path}/complete", "zoe").json()["completed"] is True
    assert titles("?status=completed") == ["Hers"]


def refused(api: Service, user: str, **claims: str) -> tuple[int, str, str]:
    """Create a task; return the status, the sentence, and what was logged."""
    before = len(api.output())
    headers = known(user, **{"email": f"{WORD}{user}@example.com"} | claims)
    sent = {"title": WORD, "description": WORD}
    answer = api.request("POST", "", user, json=sent, headers=headers)
    log = api.output()[before:]
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert "Retry-After" not in answer.headers
    assert WORD not in log
    return answer.status_code, answer.json()["detail"], log


def test_an_address_that_another_user_has_is_409(remote, user):
    status, detail, log = refused(remote, user, email="eve@example.com")
    assert (status, detail) == (409, "A rule of the tables refuses this.")
    assert "ERROR statement refused: " in log


# What happens to the tables while the service runs, how it is undone, and what is then answered.
CHANGES = {
    "a column dropped": (
        "ALTER TABLE tasks RENAME description TO gone",
        "ALTER TABLE tasks RENAME gone TO description",
        (500, "UndefinedColumn"),
    ),
    "a constraint added": (
        "ALTER TABLE tasks ADD CONSTRAINT short CHECK (length(title) < 5) NOT VALID",
        "ALTER TABLE tasks DROP CONSTRAINT short",
        (409, "CheckViolation, table tasks"),
    ),
    "a required column added": (
        "UPDATE tasks SET priority = 1; ALTER TABLE tasks ALTER priority SET NOT NULL",
        "ALTER TABLE tasks ALTER priority DROP NOT NULL",
        (409, "NotNullViolation, table tasks, column priority"),
    ),
}


@pytest.mark.parametrize(("change", "undo", "expected"), CHANGES.values(), ids=CHANGES)
def test_tables_that_change_later_are_said_in_the_log_without_what_users_wrote(
    remote, database, user, change, undo, expected
):
    database.execute(change, url=remote.database)
    try:
        status, detail, log = refused(remote, user)
    finally:
        database.execute(undo, url=remote.database)
    assert status == expected[0]
    assert f"statement refused: {expected[1]}" in log
    assert "in create_task" in log
    assert type(detail) is str


@pytest.fixture
def start_on(database: Postgres, monkeypatch: pytest.MonkeyPatch):
    """Start the database layer in this process, on a database in which statements were run."""

    def start(*statements: str, user: str = "postgres") -> str:
        url = database.create_database()
        for statement in statements:
            database.execute(statement, url=url)
        url = url.replace("postgres@", f"{user}@")
        monkeypatch.setattr(settings, "database_url", url)
        monkeypatch.setattr(db, "parameters", {})
        db.start()
        return url

    return start


def test_missing_tables_are_made_and_a_second_start_uses_up_no_id(start_on, database):
    url = start_on()
    db.start()
    database.execute("INSERT INTO users (id) VALUES ('ada')", url=url)
    insert = "INSERT INTO tasks (user_id, title, completed, created_at, updated_at)"
    row = "VALUES ('ada', 'x', false, now(), now()) RETURNING id"
    assert database.execute(f"{insert} {row}", url=url) == [(1,)]


@pytest.mark.parametrize(
    ("statements", "line"),
    [
        (
            ["CREATE TABLE users (id uuid PRIMARY KEY)"],
            'foreign key constraint "tasks_user_id_fkey" cannot be implemented'
            ' DETAIL: Key columns "user_id" of the referencing table and "id" of the referenced'
            " table are of incompatible types: character varying and uuid.",
        ),
        (
            ["CREATE TABLE users (id serial PRIMARY KEY)"],
            "of incompatible types: character varying and integer.",
        ),
        ([BY_THE_BOOK, "ALTER TABLE tasks DROP description"], "tasks.description does not exist"),
        ([BY_THE_BOOK, "ALTER TABLE users DROP email"], 'column "email" does not exist'),
    ],
)
def test_what_does_not_fit_is_one_line_in_postgresqls_words(start_on, statements, line):
    with pytest.raises(SystemExit) as refusal:
        start_on(*statements)
    assert str(refusal.value).startswith("The database cannot be used: ")
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_database_that_is_down_is_one_line(monkeypatch):
    monkeypatch.setattr(settings, "database_url", NOWHERE)
    monkeypatch.setattr(db, "parameters", {})
    with pytest.raises(SystemExit) as refusal:
        db.start()
    assert str(refusal.value) == (
        'The database cannot be used: connection to server at "127.0.0.1", port 1 failed: '
        "Connection refused Is the server running on that host and accepting TCP/IP connections?"
    )


def test_a_role_without_rights_is_one_line(start_on, database):
    database.execute("CREATE ROLE nobody LOGIN")
    with pytest.raises(SystemExit, match="permission denied for table users"):
        start_on(BY_THE_BOOK, user="nobody")
