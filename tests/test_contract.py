"""The six routes and /health, as the frontend knows them."""

import re

import pytest

KEYS = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]


def test_a_new_user_has_no_tasks(api, user):
    answer = api.request("GET", "", user)
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_created_task_is_answered_whole(api, user):
    answer = api.request(
        "POST", "", user, json={"title": "  Buy milk\n", "description": "2 litres"}
    )
    task = answer.json()
    assert answer.status_code == 201
    assert list(task) == KEYS
    assert type(task["id"]) is int
    assert (task["user_id"], task["title"], task["description"], task["completed"]) == (
        user,
        "Buy milk",
        "2 litres",
        False,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", task["created_at"])
    assert task["updated_at"] == task["created_at"]


@pytest.mark.parametrize("description", [None, ""])
def test_an_absent_description_is_null(api, user, description):
    assert api.request("POST", "", user, json={"title": "x"}).json()["description"] is None
    assert (
        api.request("POST", "", user, json={"title": "x", "description": description}).json()[
            "description"
        ]
        is None
    )


def test_tasks_are_listed_oldest_first_whatever_has_changed_since(api, user):
    ids = [api.request("POST", "", user, json={"title": title}).json()["id"] for title in "cab"]
    api.request("PUT", f"/{ids[0]}", user, json={"title": "z"})
    assert [task["id"] for task in api.request("GET", "", user).json()] == ids


def test_a_task_is_read_as_it_was_created(api, user, task):
    answer = api.request("GET", f"/{task['id']}", user)
    assert (answer.status_code, answer.json()) == (200, task)


@pytest.mark.parametrize(
    ("sent", "changed"),
    [
        ({"title": " New "}, {"title": "New"}),
        ({"description": "New"}, {"description": "New"}),
        ({"description": None}, {"description": None}),
        ({"description": ""}, {"description": None}),
        ({"completed": True}, {"completed": True}),
        (
            {"title": "a", "description": "b", "completed": True},
            {"title": "a", "description": "b", "completed": True},
        ),
        ({}, {}),
    ],
)
def test_put_changes_only_the_fields_that_were_sent(api, user, task, sent, changed):
    answer = api.request("PUT", f"/{task['id']}", user, json=sent)
    assert answer.status_code == 200
    assert answer.json() == task | changed | {"updated_at": answer.json()["updated_at"]}
    assert answer.json()["updated_at"] > task["updated_at"]
    assert api.request("GET", f"/{task['id']}", user).json() == answer.json()


@pytest.mark.parametrize(
    "nothing", [{}, {"json": {}}, {"json": {"priority": 1}}, {"content": b"null"}]
)
def test_patch_without_completed_toggles(api, user, task, nothing):
    headers = {"Content-Type": "application/json"}
    for completed in (True, False, True):
        answer = api.request("PATCH", f"/{task['id']}/complete", user, headers=headers, **nothing)
        assert (answer.status_code, answer.json()["completed"]) == (200, completed)


@pytest.mark.parametrize("completed", [True, False])
def test_patch_with_completed_sets_it_however_often(api, user, task, completed):
    for _ in range(2):
        answer = api.request(
            "PATCH", f"/{task['id']}/complete", user, json={"completed": completed}
        )
        assert (answer.status_code, answer.json()["completed"]) == (200, completed)


def test_a_deleted_task_is_gone(api, user, task):
    answer = api.request("DELETE", f"/{task['id']}", user)
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.request("GET", f"/{task['id']}", user).status_code == 404
    assert api.request("DELETE", f"/{task['id']}", user).status_code == 404
    assert api.request("GET", "", user).json() == []


def test_a_trailing_slash_makes_no_difference_and_no_redirect(api, user):
    created = api.request("POST", "/", user, json={"title": "x"})
    assert (created.status_code, list(created.json())) == (201, KEYS)
    listed = api.request("GET", "/", user)
    assert (listed.status_code, listed.json()) == (200, [created.json()])


def test_fields_and_parameters_that_are_not_the_services_are_ignored(api, user, other, task):
    extra = {
        "id": 1,
        "user_id": other,
        "priority": "high",
        "tags": ["a"],
        "created_at": "never",
        "dueDate": None,
    }
    created = api.request(
        "POST", "?sort=title", user, json={"title": "x", "completed": "no", **extra}
    ).json()
    assert (list(created), created["user_id"], created["completed"]) == (KEYS, user, False)
    echoed = api.request("PUT", f"/{task['id']}?x=y", user, json=task | extra).json()
    assert echoed == task | {"updated_at": echoed["updated_at"]}


def test_health_needs_no_token(api):
    answer = api.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
