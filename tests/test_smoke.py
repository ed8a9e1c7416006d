"""The contract at a glance: the six routes, and what is refused."""

from tests.harness import Service, token


def test_a_task_is_created(api: Service, user: str) -> None:
    answer = api.request("POST", "", user, json={"title": "Buy milk", "description": "2 litres"})
    assert answer.status_code == 201
    task = answer.json()
    assert task["user_id"] == user
    assert task["title"] == "Buy milk"
    assert task["description"] == "2 litres"
    assert task["completed"] is False


def test_tasks_are_listed_newest_first(api: Service, user: str) -> None:
    for title in ("first", "second"):
        api.request("POST", "", user, json={"title": title})
    answer = api.request("GET", "", user)
    assert answer.status_code == 200
    assert [task["title"] for task in answer.json()] == ["second", "first"]


def test_a_task_is_read(api: Service, user: str, task: dict) -> None:
    answer = api.request("GET", f"/{task['id']}", user)
    assert (answer.status_code, answer.json()) == (200, task)


def test_a_task_is_changed(api: Service, user: str, task: dict) -> None:
    answer = api.request("PUT", f"/{task['id']}", user, json={"title": "Buy oat milk"})
    assert answer.status_code == 200
    assert answer.json()["title"] == "Buy oat milk"
    assert answer.json()["description"] == "2 litres"


def test_a_task_is_completed_and_reopened(api: Service, user: str, task: dict) -> None:
    for completed in (True, False):
        answer = api.request("PATCH", f"/{task['id']}/complete", user)
        assert (answer.status_code, answer.json()["completed"]) == (200, completed)


def test_a_task_is_deleted(api: Service, user: str, task: dict) -> None:
    assert api.request("DELETE", f"/{task['id']}", user).status_code == 204
    assert api.request("GET", "", user).json() == []


def test_without_a_token_it_is_401(api: Service) -> None:
    answer = api.client.get("/api/ada/tasks")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_another_users_path_is_403(api: Service, user: str, other: str) -> None:
    headers = {"Authorization": f"Bearer {token(other)}"}
    assert api.request("GET", "", user, headers=headers).status_code == 403


def test_another_users_task_is_404(api: Service, other: str, task: dict) -> None:
    assert api.request("GET", f"/{task['id']}", other).status_code == 404
    assert api.request("DELETE", f"/{task['id']}", other).status_code == 404


def test_a_task_without_a_title_is_400_and_names_the_field(api: Service, user: str) -> None:
    answer = api.request("POST", "", user, json={"description": "2 litres"})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "title: Field required"}


def test_health_needs_no_token(api: Service) -> None:
    answer = api.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
