"""A clone brings its own PostgreSQL, wherever it lies; what cannot be had is one line."""

from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from backend import embedded
from tests.clones import parameters_of

# What other programs and databases may have left in a shell.
FOREIGN = {
    "PGSERVICE": "x",
    "PGHOSTADDR": "10.0.0.1",
    "PGSSLMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "none",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGOPTIONS": "-c x=y",
    "http_proxy": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def user(clone):
    """The parameters given to a process that uses the clone's PostgreSQL meanwhile."""
    with clone.use(**FOREIGN) as process:
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


def test_where_no_folder_can_be_made_is_one_line(tmp_path: Path):
    folder = tmp_path / ".postgres"
    folder.write_text("in the way")
    with pytest.raises(SystemExit) as refusal:
        embedded.start(folder)
    assert str(refusal.value).startswith(f"The PostgreSQL in {folder} ")
    assert "\n" not in str(refusal.value)
