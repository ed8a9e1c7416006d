"""A page of another origin uses the service in a real browser, which enforces CORS."""

from typing import Any

import pytest
from better_auth import Frontend, browse

from tests.harness import Postgres, Service, service, token

pytestmark = pytest.mark.system

READ = {
    "list": 200,
    "list with a slash": 200,
    "create": 201,
    "read": 200,
    "update": 200,
    "toggle": 200,
    "delete": 204,
    "list without a token": 401,
    "create as a form does": 401,
}


def fetches(backend: Service, page: str, task_id: int = 1) -> dict[str, Any]:
    """Return what this page reads of the answers: each status, or an error."""
    tasks = f"http://localhost:{backend.port}/api/ada/tasks"
    return browse("fetches", page, {"tasks": tasks, "id": task_id, "token": token("ada")})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_a_listed_origin_reads_every_answer(
    host: str, both: tuple[Frontend, Service], database: Postgres
) -> None:
    home, _ = both
    settings = {
        "NEON_DATABASE_URL": database.create_database(),
        "BETTER_AUTH_URL": home.url,
        "BETTER_AUTH_TRUSTED_ORIGINS": f"https://app.example.com, http://127.0.0.1:{home.port}",
    }
    with service(**settings) as backend:
        task = backend.request("POST", json={"title": "Milk"}).json()
        seen = fetches(backend, f"http://{host}:{home.port}/", task["id"])
    assert seen == READ


@pytest.mark.parametrize("page", ["http://127.0.0.1:{port}/", "http://localhost:{port}/?sandbox"])
def test_a_page_of_another_origin_reads_and_changes_nothing(
    page: str, both: tuple[Frontend, Service]
) -> None:
    home, backend = both
    task = backend.request("POST", json={"title": "Milk"}).json()
    before = backend.request("GET").json()
    seen = fetches(backend, page.format(port=home.port), task["id"])
    assert seen == dict.fromkeys(READ, "TypeError")
    assert backend.request("GET").json() == before
