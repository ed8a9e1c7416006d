"""One PostgreSQL and one service for all quick tests; each test is a user of its own."""

import os
import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests import harness

# Importing the service loaded a developer's .env.local, before its modules read their settings.
os.environ.update(harness.environment_of_service())


@pytest.fixture(scope="session")
def database() -> Iterator[harness.Postgres]:
    with harness.postgres() as server:
        yield server


class RunningService(harness.Service):
    """A service that runs already, such as one in a container, and its database."""

    def __init__(self, url: str, database: str) -> None:
        self.url = url
        self.database = database
        self.client = httpx.Client(base_url=url, timeout=15)


@pytest.fixture(scope="session")
def api(database: harness.Postgres) -> Iterator[harness.Service]:
    """The service, on a database in another time zone.

    TEST_DATABASE_URL names another database, such as one behind a pooler, and TEST_SERVICE_URL a
    service on it that runs already.
    """
    url = os.environ.get("TEST_DATABASE_URL")
    running = os.environ.get("TEST_SERVICE_URL")
    if url and running:
        service = RunningService(running, url)
        yield service
        service.client.close()
        return
    if not url:
        url = database.create_database()
        database.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET timezone = 'Asia/Kolkata'")
    with harness.service(
        NEON_DATABASE_URL=url, BETTER_AUTH_TRUSTED_ORIGINS=harness.TRUSTED
    ) as service:
        yield service


@pytest.fixture(scope="session")
def database_url(api: harness.Service) -> str:
    """The address of the service's database, as libpq understands it."""
    return f"postgresql://{api.database.partition('://')[2]}"


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def other() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def task(api: harness.Service, user: str) -> dict[str, object]:
    sent = {"title": "Buy milk", "description": "2 litres"}
    return api.request("POST", "", user, json=sent).json()
