"""One PostgreSQL and a few services for all quick tests; each test is a user of its own."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import clones, harness
from tests.keys import KeyServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the smoke test first."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")


@pytest.fixture(scope="session")
def database() -> Iterator[harness.Postgres]:
    with harness.postgres() as server:
        yield server


class RunningService(harness.Service):
    """A service that runs already, such as one in a container, its database, and its log."""

    def __init__(self, url: str, database: str, log: str) -> None:
        self.url = url
        self.database = database
        self.client = harness.client_of(url)
        self.log_file = Path(log)

    def output(self) -> str:
        return self.log_file.read_text()

    def stop(self) -> None:
        self.client.close()


@pytest.fixture(scope="session")
def api(database: harness.Postgres) -> Iterator[harness.Service]:
    """The service, on a database in another time zone. Nobody listens where its keys should be.

    TEST_DATABASE_URL names another database, such as one behind a pooler, and TEST_SERVICE_URL a
    service on it that runs already and writes its log to the file of TEST_SERVICE_LOG.
    """
    url = os.environ.get("TEST_DATABASE_URL")
    running = os.environ.get("TEST_SERVICE_URL")
    if url and running:
        with RunningService(
            running, url, os.environ.get("TEST_SERVICE_LOG", os.devnull)
        ) as service:
            yield service
        return
    if not url:
        url = database.create_database()
        database.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET timezone = 'Asia/Kolkata'")
    settings = {
        "NEON_DATABASE_URL": url,
        "BETTER_AUTH_TRUSTED_ORIGINS": harness.TRUSTED,
        "BETTER_AUTH_JWKS_URL": "http://127.0.0.1:1/keys",
    }
    with harness.service(**settings) as service:
        yield service


@pytest.fixture(scope="session")
def proxy(database: harness.Postgres) -> Iterator[harness.Proxy]:
    """A proxy in front of PostgreSQL."""
    with harness.Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def frontend_keys() -> Iterator[KeyServer]:
    """Where a frontend publishes its keys."""
    with KeyServer() as keys:
        yield keys


# What a backend by the book has made: times without a zone, no defaults, addresses that are unique.
# The column `completed` was added later.
BY_THE_BOOK = """
    CREATE TABLE users (
        id VARCHAR NOT NULL PRIMARY KEY,
        email VARCHAR UNIQUE,
        name VARCHAR
    );
    CREATE TABLE tasks (
        id SERIAL NOT NULL PRIMARY KEY,
        user_id VARCHAR NOT NULL REFERENCES users (id),
        title VARCHAR(200) NOT NULL,
        description VARCHAR(1000),
        created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
        updated_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
        priority INTEGER
    );
    INSERT INTO users VALUES ('eve', 'eve@example.com', 'Eve'), ('zoe', 'zoe@example.com', 'Zoe');
    INSERT INTO tasks (user_id, title, created_at, updated_at)
    VALUES ('eve', 'Hers', '2026-01-02 03:04:05', '2026-01-02 03:04:05.5'),
           ('zoe', 'Hers', '2026-01-02 03:04:05', '2026-01-02 03:04:05.5');
    ALTER TABLE tasks ADD completed boolean;
"""


@pytest.fixture(scope="session")
def remote(
    database: harness.Postgres, proxy: harness.Proxy, frontend_keys: KeyServer
) -> Iterator[harness.Service]:
    """A service with what `api` has not, and four connections to its database.

    A proxy stands before the database, in which another backend has made the tables. The frontend
    publishes keys and has further names in its tokens. The service's own address has a path.
    """
    url = database.create_database()
    database.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET timezone = 'Asia/Kolkata'")
    database.execute(BY_THE_BOOK, url=url)
    settings = {
        # A name, of which the service has to find an address at which somebody listens.
        "NEON_DATABASE_URL": proxy.address(url).replace("127.0.0.1", "localhost"),
        "DATABASE_POOL_SIZE": "4",
        "BETTER_AUTH_URL": frontend_keys.url,
        "BETTER_AUTH_TRUSTED_ORIGINS": harness.FRONTEND,
        "BETTER_AUTH_ISSUER": f"{frontend_keys.url}, My App",
        "BETTER_AUTH_AUDIENCE": f"{frontend_keys.url} ,you",
    }
    with harness.service("--root-path", "/todo", **settings) as service:
        yield service


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> clones.Clone:
    """A clone in a folder with 150 characters of every kind in its path."""
    return clones.Clone(tmp_path_factory.mktemp("clones") / f"{clones.ODD_NAME} {'x' * 110}")


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
