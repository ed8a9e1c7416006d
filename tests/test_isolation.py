"""Nobody sees or changes another user's tasks, nor learns which exist."""

import pytest

from tests.harness import MAX_TASK_ID, token

ROUTES = [
    ("GET", "", None),
    ("POST", "", {"title": "x"}),
    ("GET", "/{id}", None),
    ("PUT", "/{id}", {"title": "Stolen"}),
    ("PATCH", "/{id}/complete", None),
    ("DELETE", "/{id}", None),
]
ON_A_TASK = ROUTES[2:]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_another_users_path_is_403_whether_or_not_user_and_task_exist(
    api, user, other, task, method, path, body
):
    headers = {"Authorization": f"Bearer {token(other)}"}  # instead of the owner's
    answers = [
        api.request(method, path.format(id=task_id), owner, headers=headers, json=body)
        for owner, task_id in ((user, task["id"]), (user, MAX_TASK_ID), ("nobody", task["id"]))
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize(("method", "path", "body"), ON_A_TASK)
def test_another_users_task_is_404_like_one_that_does_not_exist(
    api, user, other, task, method, path, body
):
    foreign = api.request(method, path.format(id=task["id"]), other, json=body)
    missing = api.request(method, path.format(id=MAX_TASK_ID), other, json=body)
    assert (foreign.status_code, foreign.content) == (404, missing.content)
    assert missing.status_code == 404
    assert api.request("GET", f"/{task['id']}", user).json() == task


def test_lists_hold_only_ones_own_tasks(api, user, other, task):
    mine = api.request("POST", "", other, json={"title": "Mine"}).json()
    assert api.request("GET", "", other).json() == [mine]
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize("owner", ["{user}%20", "{USER}", "%20{user}", "{user}%00", "%2e"])
def test_a_path_that_only_resembles_ones_own_is_403(api, user, owner):
    path = owner.format(user=user, USER=user.upper())
    headers = {"Authorization": f"Bearer {token(user)}"}
    assert api.client.get(f"/api/{path}/tasks", headers=headers).status_code == 403
