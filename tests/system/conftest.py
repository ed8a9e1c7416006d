"""What several system tests share: a database, a proxy, Better Auth, and the table of faults."""

from collections.abc import Iterator

import pytest
from better_auth import Frontend, together

from tests.harness import Postgres, Proxy, Service


@pytest.fixture(scope="module")
def both(database: Postgres) -> Iterator[tuple[Frontend, Service]]:
    """A frontend with the real Better Auth, and the service that trusts it."""
    with together(database) as running:
        yield running


@pytest.fixture
def url(database: Postgres) -> str:
    """The address of a new database."""
    return database.create_database()


@pytest.fixture
def faulty(database: Postgres) -> Iterator[Proxy]:
    """A proxy in front of the database, for one test."""
    with Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def faults(pytestconfig: pytest.Config) -> Iterator[list[str]]:
    """The rows of the table of faults, which is printed at the end."""
    rows = [
        "| fault | requests | failures | writes without an answer | slowest answer |",
        "|---|--:|---|---|--:|",
    ]
    yield rows
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *rows, sep="\n")
