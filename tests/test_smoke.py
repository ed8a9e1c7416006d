"""The contract at a glance: the six routes, and what is refused.

`ada` and `bob` are HTTP clients that send their user's token along.
"""

from collections.abc import Iterator

import httpx
import pytest

from tests.harness import Service, client_of, token

TASKS = "/api/ada/tasks"


@pytest.fixture(scope="module")
def ada(api: Service) -> Iterator[httpx.Client]:
    with client_of(api.url, token("ada")) as client:
        yield client


@pytest.fixture(scope="module")
def bob(api: Service) -> Iterator[httpx.Client]:
    with client_of(api.url, token("bob")) as client:
        yield client


@pytest.fixture
def milk(ada: httpx.Client) -> str:
    """The address of a task of Ada's."""
    task = ada.post(TASKS, json={"title": "Buy milk", "description": "2 litres"}).json()
    return f"{TASKS}/{task['id']}"


def test_a_task_is_created(ada: httpx.Client) -> None:
    answer = ada.post(TASKS, json={"title": "Buy milk", "description": "2 litres"})
    assert answer.status_code == 201
    task = answer.json()
    assert task["user_id"] == "ada"
    assert task["title"] == "Buy milk"
    assert task["description"] == "2 litres"
    assert task["completed"] is False


def test_tasks_are_listed_newest_first(ada: httpx.Client) -> None:
    for title in ("older", "newer"):
        ada.post(TASKS, json={"title": title})
    answer = ada.get(TASKS)
    assert answer.status_code == 200
    assert [task["title"] for task in answer.json()][:2] == ["newer", "older"]


def test_a_task_is_read(ada: httpx.Client, milk: str) -> None:
    answer = ada.get(milk)
    assert (answer.status_code, answer.json()["title"]) == (200, "Buy milk")


def test_a_task_is_changed_where_something_is_sent(ada: httpx.Client, milk: str) -> None:
    answer = ada.put(milk, json={"title": "Buy oat milk"})
    assert (answer.status_code, answer.json()["title"]) == (200, "Buy oat milk")
    assert answer.json()["description"] == "2 litres"


def test_a_task_is_completed_and_reopened(ada: httpx.Client, milk: str) -> None:
    for completed in (True, False):
        answer = ada.patch(f"{milk}/complete")
        assert (answer.status_code, answer.json()["completed"]) == (200, completed)


def test_a_task_is_deleted(ada: httpx.Client, milk: str) -> None:
    assert ada.delete(milk).status_code == 204
    assert ada.get(milk).status_code == 404


def test_without_a_token_it_is_401(api: Service) -> None:
    answer = api.client.get(TASKS)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_another_users_path_is_403(bob: httpx.Client, milk: str) -> None:
    assert bob.get(TASKS).status_code == 403
    assert bob.get(milk).status_code == 403


def test_another_users_task_is_404(bob: httpx.Client, milk: str) -> None:
    through_his_own_path = milk.replace("ada", "bob")
    assert bob.get(through_his_own_path).status_code == 404
    assert bob.delete(through_his_own_path).status_code == 404


def test_a_task_without_a_title_is_400_and_names_the_field(ada: httpx.Client) -> None:
    answer = ada.post(TASKS, json={"description": "2 litres"})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "title: Field required"}
