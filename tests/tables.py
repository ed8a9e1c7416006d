"""Tables that somebody else made, a start of the service on them, and the six routes."""

import subprocess
import sys
from subprocess import CompletedProcess
from typing import Any

from tests.harness import (
    CHECK,
    PASSWORD,
    ROOT,
    Postgres,
    Service,
    environment_of_service,
    started,
    token,
)

# What SQLModel makes for another backend: every default stands in Python, none in the database.
BY_THE_BOOK = """
    CREATE TABLE users (
        id VARCHAR NOT NULL,
        email VARCHAR NOT NULL,
        name VARCHAR,
        PRIMARY KEY (id)
    );
    CREATE UNIQUE INDEX ix_users_email ON users (email);
    CREATE TABLE tasks (
        id SERIAL NOT NULL,
        user_id VARCHAR NOT NULL,
        title VARCHAR(200) NOT NULL,
        description VARCHAR(1000),
        completed BOOLEAN NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(user_id) REFERENCES users (id)
    );
    CREATE INDEX ix_tasks_user_id ON tasks (user_id);
    INSERT INTO users VALUES ('eve', 'eve@example.com', 'Eve');
    INSERT INTO tasks (user_id, title, description, completed, created_at, updated_at)
    VALUES ('eve', 'Hers', 'Old', true, '2026-01-02 03:04:05Z', '2026-01-02 03:04:05Z');
"""
FOUR_FAULTS = """
    ALTER TABLE tasks
        ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC',
        ALTER updated_at TYPE timestamp USING updated_at AT TIME ZONE 'UTC',
        ALTER title TYPE varchar(100),
        ADD priority integer NOT NULL DEFAULT 1;
    ALTER TABLE tasks ALTER priority DROP DEFAULT;
"""
MENDED_BY = (
    "ALTER TABLE tasks ALTER title TYPE VARCHAR(200), "
    "ALTER created_at TYPE TIMESTAMP WITH TIME ZONE USING created_at AT TIME ZONE 'UTC', "
    "ALTER updated_at TYPE TIMESTAMP WITH TIME ZONE USING updated_at AT TIME ZONE 'UTC', "
    "ALTER priority DROP NOT NULL;"
)
# Better Auth makes these under plural names; email_verified is its emailVerified in snake case.
BETTER_AUTH_USERS = """
    CREATE TABLE users (
        id text NOT NULL PRIMARY KEY,
        name text NOT NULL,
        email text NOT NULL UNIQUE,
        email_verified boolean NOT NULL,
        image text,
        created_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
        updated_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL
    );
"""
SIGN_UP = """
    INSERT INTO users (id, name, email, email_verified)
    VALUES ('ada', 'Ada', 'ada@example.com', true);
"""


def table_owner(database: Postgres) -> str:
    """Return a role that is no superuser, as the roles of hosts are."""
    name = "todo_owner"
    if not database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", name):
        database.execute(f"CREATE ROLE {name} LOGIN")
    return name


def make_database(database: Postgres, *statements: str) -> str:
    """Return the address of a new database, in which one role owns what these statements make."""
    url = database.create_database()
    owner = table_owner(database)
    database.execute(f"ALTER DATABASE {url.rpartition('/')[2]} OWNER TO {owner}", url=url)
    url = url.replace("postgres@", f"{owner}:{PASSWORD}@")
    for statement in statements:
        database.execute(statement, url=url)
    return url


def start_once(url: str) -> CompletedProcess[str]:
    """Run the service's check: it starts, says what it found, and ends."""
    return subprocess.run(
        [sys.executable, "-m", "backend.main"],
        cwd=ROOT,
        env=environment_of_service(NEON_DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(url: str) -> str:
    """Return the one line with which the service refuses to start."""
    with started(*CHECK, NEON_DATABASE_URL=url) as process:
        return refusal_by(process)


def refusal_by(process: "subprocess.Popen[str]") -> str:
    """Return the one line with which a check ends."""
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, ""), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert PASSWORD not in error
    return error.rstrip("\n")


def headers(user: str, **claims: Any) -> dict[str, str]:
    """Return the header with a token that says who the user is, as Better Auth's plugin does."""
    claims = {"email": f"{user}@example.com", "name": user.title()} | claims
    return {"Authorization": f"Bearer {token(user, **claims)}"}


def use_all_six_routes(api: Service, user: str) -> None:
    """Let a user make, list, read, change, complete and delete a task."""
    known = {"headers": headers(user)}
    description = "x" * 1000
    sent = {"title": "Ключ €", "description": description}
    created = api.request("POST", "", user, json=sent, **known)
    assert created.status_code == 201, created.text
    task = created.json()
    assert list(task) == [
        "id",
        "user_id",
        "title",
        "description",
        "completed",
        "created_at",
        "updated_at",
    ]
    assert task | sent | {"user_id": user, "completed": False} == task
    assert task["created_at"].endswith("Z")
    path = f"/{task['id']}"
    assert api.request("GET", "", user, **known).json() == [task]
    assert api.request("GET", path, user, **known).json() == task
    change = {"title": "x" * 200, "description": None}
    changed = api.request("PUT", path, user, json=change, **known).json()
    assert changed == task | change | {"updated_at": changed["updated_at"]}
    toggled = api.request("PATCH", f"{path}/complete", user, **known).json()
    assert toggled == changed | {"completed": True, "updated_at": toggled["updated_at"]}
    assert api.request("DELETE", path, user, **known).status_code == 204
    assert api.request("GET", "", user, **known).json() == []
