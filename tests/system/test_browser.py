"""A page of another origin uses the service in a real browser, which enforces CORS.

apt-get install chromium
npm ci --prefix tests/system/frontend
.venv/bin/pytest -m system tests/system/test_browser.py
"""

import json
from typing import Any

import pytest
from better_auth import Frontend, Person, browse

from tests.harness import Postgres, Service, service

pytestmark = pytest.mark.system


def page(home: Frontend, backend: Service, **settings: str) -> str:
    """Return the address of the page; the service is at localhost too, as in development."""
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"{home.origin}/?api=http://localhost:{backend.port}&{query}"


def stored(database: Postgres, backend: Service) -> list[tuple[Any, ...]]:
    """Return owner's e-mail, title, and completed of every task."""
    tasks = "SELECT email, title, completed FROM tasks JOIN users ON users.id = user_id"
    return database.execute(f"{tasks} ORDER BY tasks.id", url=backend.database)


def refusal(
    backend: Service, person: Person, token: str, method: str = "GET", path: str = "", **sent: Any
) -> str:
    """Return what the page should show of an error answer: its status and its text."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = backend.client.request(method, person.tasks + path, headers=headers, **sent)
    return f"{answer.status_code} {answer.json()['detail']}"


@pytest.mark.parametrize("slash", ["", "/"], ids=["tasks", "tasks-slash"])
@pytest.mark.parametrize("token", ["shared", "published"])
def test_a_page_lists_creates_edits_toggles_and_deletes(
    token: str, slash: str, home: Frontend, backend: Service, database: Postgres
) -> None:
    email = f"{token}{len(slash)}@example.com"
    seen = browse("everything", page(home, backend, token=token, slash=slash), email)
    assert seen["shown"] == [
        [],
        ["  Bread"],
        ["  Milk", "  Bread"],
        ["  Oat milk", "  Bread"],
        ["x Oat milk", "  Bread"],
        ["x Oat milk"],
    ]
    assert [task for task in stored(database, backend) if task[0] == email] == [
        (email, "Oat milk", True)
    ]
    sent = seen["sent"]
    assert {request["method"] for request in sent} == {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert {
        request["path"].endswith("/") for request in sent if request["method"] in ("GET", "POST")
    } == {bool(slash)}
    assert all("better-auth.session_token=" in request["cookies"] for request in sent)
    assert sorted(seen["preflights"]) == sorted(request["method"] for request in sent)


def test_the_page_shows_why_a_title_is_refused_and_goes_on(
    home: Frontend, backend: Service
) -> None:
    seen = browse("blank", page(home, backend), "blank@example.com")
    zoe = home.sign_up()
    assert seen["refused"] == refusal(backend, zoe, zoe.shared(), "POST", json={"title": "   "})
    assert seen["refused"].startswith("400 ")
    assert "title" in seen["refused"]
    assert (seen["shown"], seen["left"]) == (["  Milk"], "")


def test_the_page_shows_that_a_task_is_gone(home: Frontend, backend: Service) -> None:
    seen = browse("gone", page(home, backend, token="published"), "gone@example.com")
    zoe = home.sign_up()
    assert seen["refused"] == refusal(backend, zoe, zoe.shared(), "DELETE", "/1")
    assert seen["refused"].startswith("404 ")


def test_the_page_shows_that_its_token_has_expired(home: Frontend, backend: Service) -> None:
    seen = browse("refused", page(home, backend, token="expired"), "expired@example.com")
    zoe = home.sign_up()
    assert seen["refused"] == refusal(backend, zoe, zoe.shared(seconds="-60"))
    assert seen["refused"].startswith("401 ")
    assert "expired" in seen["refused"]


def test_the_page_shows_that_tokens_cannot_be_checked_now(
    home: Frontend, database: Postgres
) -> None:
    home.keys("down")
    with service(NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=home.url) as backend:
        seen = browse("refused", page(home, backend, token="published"), "unchecked@example.com")
        home.keys("normal")
        assert seen["refused"].startswith("503 ")


def test_the_page_shows_that_the_database_is_away(home: Frontend, database: Postgres) -> None:
    url = database.create_database()
    with service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=home.url) as backend:
        name = url.rpartition("/")[2]
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")
        seen = browse("refused", page(home, backend), "away@example.com")
        assert seen["refused"].startswith("503 ")


def elsewhere(backend: Service, zoe: Person, address: str) -> dict[str, Any]:
    """Let the page at another address use a task with a genuine token; return what it read."""
    headers = {"Authorization": f"Bearer {zoe.shared()}"}
    created = backend.client.post(zoe.tasks, headers=headers, json={"title": "Mine"})
    tasks = f"http://localhost:{backend.port}{zoe.tasks}"
    return browse("fetches", address, json.dumps([tasks, created.json()["id"], zoe.shared()]))


@pytest.mark.parametrize("name", ["unlisted", "opaque"])
def test_a_page_of_an_origin_that_is_not_listed_gets_nothing(
    name: str, home: Frontend, database: Postgres
) -> None:
    addresses = {
        "unlisted": f"http://127.0.0.1:{home.port}/",
        "opaque": f"{home.origin}/?sandbox",
    }
    zoe = home.sign_up(email=f"{name}@example.com")
    with service(NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=home.url) as backend:
        seen = elsewhere(backend, zoe, addresses[name])
        # fetch raises a TypeError for an answer that the page may not read.
        assert set(seen.values()) == {"TypeError"}
        assert stored(database, backend) == [(zoe.email, "Mine", False)]


def test_a_page_of_a_trusted_origin_reads_every_answer(home: Frontend, database: Postgres) -> None:
    address = f"http://127.0.0.1:{home.port}/"
    zoe = home.sign_up(email="trusted@example.com")
    trusted = {"BETTER_AUTH_TRUSTED_ORIGINS": f"https://app.example.com, {address}"}
    with service(
        NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=home.url, **trusted
    ) as backend:
        seen = elsewhere(backend, zoe, address)
        assert {attempt: answer[:3] for attempt, answer in seen.items()} == {
            "list": "200",
            "create": "201",
            "read": "200",
            "update": "200",
            "toggle": "200",
            "delete": "204",
            "list without a token": "401",
            "create as a form does": "401",
        }
