"""A frontend with the real Better Auth, and the service that trusts it."""

from collections.abc import Iterator

import pytest
from better_auth import Frontend, frontend

from tests.harness import Postgres, Service, service


@pytest.fixture(scope="module")
def home() -> Iterator[Frontend]:
    with frontend() as running:
        yield running


@pytest.fixture(scope="module")
def backend(home: Frontend, database: Postgres) -> Iterator[Service]:
    with service(NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=home.url) as running:
        yield running
