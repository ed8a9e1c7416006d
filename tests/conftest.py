"""One PostgreSQL and a few services for all quick tests; each test is a user of its own.

The fixtures named in STARTING start a service, or another program, and do not wait for it. They do
so one after another, in this order, while tests run that do not need them.
"""

import os
import time
import uuid
from collections.abc import Iterator
from subprocess import Popen

import pytest

from tests import clones, harness, tables

# Importing the service loaded a developer's .env.local, before its modules read their settings.
os.environ.update(harness.environment_of_service())

# In the order of need, but for the clone: it brings its own PostgreSQL.
STARTING = (
    "starting_clone",
    "starting_api",
    "starting_in_vain",
    "starting_check",
    "starting_behind",
    "starting_small_pool",
    "starting_trusting",
    "starting_to_be_stopped",
    "starting_check_of_faults",
    "starting_mended",
)
SECONDS_OF_A_START = 0.6  # the time between two


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that mostly wait before the others: the services start meanwhile."""
    items.sort(key=does_work)


def does_work(item: pytest.Item) -> bool:
    return item.path.name != "test_pool.py"


class HeadStart:
    """What later tests need, of which one after another starts while tests run."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.next_at = 0.0  # on the clock of time.monotonic()

    def is_due(self) -> bool:
        return bool(self.names) and time.monotonic() > self.next_at

    def next_name(self) -> str:
        self.next_at = time.monotonic() + SECONDS_OF_A_START
        return self.names.pop(0)


@pytest.fixture(scope="session")
def head_start(request: pytest.FixtureRequest) -> HeadStart:
    needed = {name for item in request.session.items for name in item.fixturenames}
    return HeadStart([name for name in STARTING if name in needed])


@pytest.fixture(autouse=True)
def start_another(request: pytest.FixtureRequest, head_start: HeadStart) -> None:
    """Before a test, start something that a later one needs."""
    if head_start.is_due():
        request.getfixturevalue(head_start.next_name())


@pytest.fixture(scope="session")
def database() -> Iterator[harness.Postgres]:
    with harness.postgres() as server:
        yield server


class RunningService(harness.Service):
    """A service that runs already, such as one in a container, and its database."""

    def __init__(self, url: str, database: str) -> None:
        self.url = url
        self.database = database
        self.client = harness.client_of(url)

    def stop(self) -> None:
        self.client.close()


@pytest.fixture(scope="session")
def starting_api(database: harness.Postgres) -> Iterator[harness.Service]:
    """The service, on a database in another time zone.

    TEST_DATABASE_URL names another database, such as one behind a pooler, and TEST_SERVICE_URL a
    service on it that runs already.
    """
    url = os.environ.get("TEST_DATABASE_URL")
    running = os.environ.get("TEST_SERVICE_URL")
    if url and running:
        with RunningService(running, url) as service:
            yield service
        return
    if not url:
        url = database.create_database()
        database.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET timezone = 'Asia/Kolkata'")
    with harness.starting(
        NEON_DATABASE_URL=url, BETTER_AUTH_TRUSTED_ORIGINS=harness.TRUSTED
    ) as service:
        yield service


@pytest.fixture(scope="session")
def api(starting_api: harness.Service) -> harness.Service:
    return starting_api.wait_until_up()


@pytest.fixture(scope="session")
def database_url(api: harness.Service) -> str:
    """The address of the service's database, as libpq understands it."""
    return f"postgresql://{api.database.partition('://')[2]}"


@pytest.fixture(scope="session")
def database_proxy(database: harness.Postgres) -> Iterator[harness.Proxy]:
    """A proxy in front of PostgreSQL."""
    with harness.Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def starting_behind(
    database: harness.Postgres, database_proxy: harness.Proxy
) -> Iterator[harness.Service]:
    """The service behind the proxy."""
    url = database_proxy.address(database.create_database())
    with harness.starting(NEON_DATABASE_URL=url) as service:
        yield service


@pytest.fixture(scope="session")
def starting_small_pool(database: harness.Postgres) -> Iterator[harness.Service]:
    """The service with four connections, on an event loop without add_reader, as on Windows."""
    url = database.create_database()
    options = ("--loop", "tests.loops:LoopWithoutReaders")
    with harness.starting(*options, NEON_DATABASE_URL=url, DATABASE_POOL_SIZE="4") as service:
        yield service


@pytest.fixture(scope="session")
def keys_port() -> int:
    """The port at which test_keys.py publishes keys."""
    return harness.free_port()


@pytest.fixture(scope="session")
def starting_trusting(database: harness.Postgres, keys_port: int) -> Iterator[harness.Service]:
    """The service whose frontend publishes keys."""
    url = database.create_database()
    frontend = f"http://127.0.0.1:{keys_port}"
    with harness.starting(NEON_DATABASE_URL=url, BETTER_AUTH_URL=frontend) as service:
        yield service


@pytest.fixture(scope="session")
def mended_url(database: harness.Postgres) -> str:
    """The address of tables of another backend, which had four faults that were mended.

    Its users need no e-mail address, so that the trial at the start can make one.
    """
    mended = (tables.BY_THE_BOOK, tables.FOUR_FAULTS, tables.MENDED_BY)
    no_email = "ALTER TABLE users ALTER email DROP NOT NULL"
    return tables.make_database(database, *mended, no_email)


@pytest.fixture(scope="session")
def starting_mended(mended_url: str) -> Iterator[harness.Service]:
    """The service on those tables."""
    with harness.starting(NEON_DATABASE_URL=mended_url) as service:
        yield service


@pytest.fixture(scope="session")
def starting_check(mended_url: str) -> Iterator[Popen[str]]:
    """A check of the settings and of those tables."""
    settings = {
        "NEON_DATABASE_URL": mended_url,
        "BETTER_AUTH_ISSUER": "me",
        "BETTER_AUTH_JWKS_URL": "http://keys.example/jwks",
        "BETTER_AUTH_TRUSTED_ORIGINS": harness.TRUSTED,
    }
    with harness.started(*harness.CHECK, **settings) as process:
        yield process


@pytest.fixture(scope="session")
def starting_check_of_faults(database: harness.Postgres) -> Iterator[Popen[str]]:
    """A check of tables with four faults."""
    url = tables.make_database(database, tables.BY_THE_BOOK, tables.FOUR_FAULTS)
    with harness.started(*harness.CHECK, NEON_DATABASE_URL=url) as process:
        yield process


@pytest.fixture(scope="session")
def starting_in_vain() -> Iterator[Popen[str]]:
    """The service with its database down."""
    with harness.started(*harness.SERVE, NEON_DATABASE_URL=harness.NOWHERE) as process:
        yield process


@pytest.fixture(scope="session")
def slow_proxy(database: harness.Postgres) -> Iterator[harness.Proxy]:
    """A proxy in front of PostgreSQL that will delay what goes through it."""
    with harness.Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def starting_to_be_stopped(
    database: harness.Postgres, slow_proxy: harness.Proxy
) -> Iterator[harness.Service]:
    """The service behind the slow proxy, for the test that stops it."""
    url = slow_proxy.address(database.create_database())
    with harness.starting(NEON_DATABASE_URL=url) as service:
        yield service


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> clones.Clone:
    """A clone in a folder with 150 characters of every kind in its path."""
    name = f"{clones.ODD_NAME} {'x' * 110}"
    return clones.Clone(tmp_path_factory.mktemp("clones") / name)


@pytest.fixture(scope="session")
def starting_clone(clone: clones.Clone) -> Iterator[harness.Service]:
    """The service of the clone, without any setting in its environment."""
    with clone.begin_start(prefix=("env", "-i")) as service:
        yield service


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
