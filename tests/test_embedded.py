"""A clone brings its own PostgreSQL, wherever it lies; what cannot be had is one line."""

from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.clones import ODD_NAME, Clone, parameters_of


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in a folder with 150 characters of every kind in its path."""
    return Clone(tmp_path_factory.mktemp("clones") / f"{ODD_NAME} {'x' * 110}")


@pytest.fixture(scope="module")
def user(clone):
    """The parameters given to a process that uses the clone's PostgreSQL meanwhile."""
    with clone.use() as process:
        yield parameters_of(process)


def test_it_works_and_wants_its_password(user):
    with closing(psycopg2.connect(**user)) as connection:
        assert connection.info.transaction_status == 0
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(**user | {"password": "guess"})


def test_it_listens_on_the_loopback_address_only(clone, user):
    addresses = [
        connection.laddr
        for connection in clone.server().net_connections()
        if connection.status == "LISTEN"
    ]
    assert addresses == [("127.0.0.1", int(user["port"]))]


def test_the_password_is_readable_by_its_owner_only(clone, user):
    password = clone.folder / ".postgres" / "password"
    assert password.read_text() == user["password"]
    assert password.stat().st_mode & 0o777 == 0o600
    assert clone.data.stat().st_mode & 0o777 == 0o700


def test_libpqs_variables_for_another_database_do_not_matter(clone, user):
    foreign = {"PGSSLMODE": "require", "PGSERVICE": "x", "PGHOSTADDR": "10.0.0.1"}
    with clone.use(**foreign, PGOPTIONS="-cx=y", PGTARGETSESSIONATTRS="standby") as another:
        assert parameters_of(another) == user


def test_where_no_folder_can_be_made_is_one_line(tmp_path: Path):
    clone = Clone(tmp_path / "clone")
    (clone.folder / ".postgres").write_text("in the way")
    assert str(clone.folder / ".postgres") in clone.refusal()


def test_where_its_packages_are_not_installed_is_one_line(tmp_path: Path):
    clone = Clone(tmp_path / "clone")
    (clone.folder / "filelock.py").write_text("raise ImportError('filelock is missing')")
    assert clone.refusal() == "DATABASE_URL=embedded needs requirements.txt installed.\n"
