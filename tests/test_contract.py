"""The six routes, /health and the bare address, as the frontend knows them."""

import asyncio
import json
import re
import uuid
from unittest.mock import AsyncMock

import pytest
from fastapi import HTTPException

from backend.auth.jwt import Identity
from backend.models import TaskCreate
from backend.routes import tasks

KEYS = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]


def create(api, user, *titles):
    """Create a task for each title; return them in that order."""
    return [api.request("POST", "", user, json={"title": title}).json() for title in titles]


def titles_of(answer):
    assert answer.status_code == 200
    return [task["title"] for task in answer.json()]


def test_a_new_user_has_no_tasks(api, user):
    answer = api.request("GET", "", user)
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_created_task_is_answered_whole(api, user):
    sent = {"title": "  Buy milk\n", "description": "2 litres"}
    answer = api.request("POST", "", user, json=sent)
    task = answer.json()
    assert answer.status_code == 201
    assert list(task) == KEYS
    assert type(task["id"]) is int
    assert task["user_id"] == user
    assert task["title"] == "Buy milk"
    assert task["description"] == "2 litres"
    assert task["completed"] is False
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", task["created_at"])
    assert task["updated_at"] == task["created_at"]


@pytest.mark.parametrize("sent", [{}, {"description": None}, {"description": ""}])
def test_an_absent_description_is_null(api, user, sent):
    answer = api.request("POST", "", user, json={"title": "x"} | sent)
    assert answer.json()["description"] is None


def test_tasks_are_listed_newest_first_whatever_has_changed_since(api, user):
    titles = ("renamed", "described", "completed", "deleted", "newest")
    renamed, described, completed, deleted, _ = create(api, user, *titles)
    api.request("PUT", f"/{renamed['id']}", user, json={"title": "z"})
    api.request("PATCH", f"/{completed['id']}/complete", user)
    api.request("DELETE", f"/{deleted['id']}", user)
    api.request("PUT", f"/{described['id']}", user, json={"description": "x" * 1000})
    assert titles_of(api.request("GET", "", user)) == ["newest", "completed", "described", "z"]


@pytest.mark.parametrize("parameters", ["?sort=title", "?sort=title&status=all"])
def test_sorted_by_title_is_a_to_z_without_regard_to_case_then_newest_first(api, user, parameters):
    create(api, user, "b", "A", "c", "a", "B", "C", "a")
    assert titles_of(api.request("GET", parameters, user)) == list("aaABbCc")
    ids = [task["id"] for task in api.request("GET", parameters, user).json()]
    assert ids[0] > ids[1] > ids[2]


@pytest.fixture(scope="module")
def reader(api):
    """A user whose tasks a and c, of a to d, are completed."""
    reader = uuid.uuid4().hex
    a, _, c, _ = create(api, reader, *"aBcd")
    for task in (a, c):
        api.request("PATCH", f"/{task['id']}/complete", reader)
    return reader


@pytest.mark.parametrize(
    ("parameters", "titles"),
    [
        ("", "dcBa"),
        ("?", "dcBa"),
        ("?status=all", "dcBa"),
        ("?status=pending", "dB"),
        ("?status=completed", "ca"),
        ("?sort=created", "dcBa"),
        ("?sort=title", "aBcd"),
        ("?status=pending&sort=created", "dB"),
        ("?status=pending&sort=title", "Bd"),
        ("?sort=title&status=completed", "ac"),
        ("?status=completed&status=pending", "dB"),
        ("?sort=title&sort=created", "dcBa"),
        ("?STATUS=pending&completed=true&page=2&limit=1&search=x&order=asc", "dcBa"),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_list_is_filtered_and_sorted_as_asked(api, reader, slash, parameters, titles):
    assert titles_of(api.request("GET", f"{slash}{parameters}", reader)) == list(titles)


def test_a_filter_that_fits_no_task_lists_none(api, user):
    create(api, user, "x")
    assert api.request("GET", "?status=completed", user).json() == []


def test_a_task_is_read_as_it_was_created(api, user, task):
    answer = api.request("GET", f"/{task['id']}", user)
    assert (answer.status_code, answer.json()) == (200, task)


def without_spaces_between(text):
    """Return a list's JSON text with nothing between its parts, as single reads are written."""
    return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize(
    "title",
    [
        "plain",
        "\"quoted\" 'twice'",
        r"back\slash \n \u0000",
        '+00:00"',
        '"created_at":"2026-01-01T00:00:00+00:00"',
        "tab\tbreak\nreturn\rbell\x07escape\x1bdelete\x7f",
        "\U0001f600 \U0001f468\u200d\U0001f469",
        "\u2028 \u2029 \u202e \ufeff \uffff",
        "</script>&amp;",
    ],
)
def test_a_list_holds_what_single_reads_answer(api, user, title):
    for number in range(2):
        api.request("POST", "", user, json={"title": f"{number} {title}", "description": title})
    listed = api.request("GET", "", user)
    assert listed.headers["Content-Type"] == "application/json"
    reads = [api.request("GET", f"/{task['id']}", user) for task in listed.json()]
    assert [read.headers["Content-Type"] for read in reads] == ["application/json"] * 2
    assert [read.json()["title"] for read in reads] == [f"1 {title}", f"0 {title}"]
    assert without_spaces_between(listed.text) == f"[{','.join(read.text for read in reads)}]"


@pytest.mark.parametrize("second", ["01", "01.5", "01.000001", "01.123456"])
def test_a_list_writes_times_as_single_reads_do(api, database, database_url, user, task, second):
    change = "UPDATE tasks SET created_at = %s, updated_at = %s WHERE id = %s"
    time = f"2026-01-02T03:04:{second}Z"
    database.execute(change, time, time, task["id"], url=database_url)
    listed = api.request("GET", "", user).json()
    assert listed == [api.request("GET", f"/{task['id']}", user).json()]
    assert re.fullmatch(rf"2026-01-02T03:04:{second}0*Z", listed[0]["created_at"])


@pytest.mark.parametrize(
    ("sent", "changed"),
    [
        ({"title": " New "}, {"title": "New"}),
        ({"description": "New"}, {"description": "New"}),
        ({"description": None}, {"description": None}),
        ({"description": ""}, {"description": None}),
        ({"completed": True}, {"completed": True}),
        ({"completed": False}, {"completed": False}),
        (
            {"title": "a", "description": "b", "completed": True},
            {"title": "a", "description": "b", "completed": True},
        ),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("completed", [False, True])
def test_put_changes_only_the_fields_that_were_sent(api, user, task, completed, sent, changed):
    before = api.request(
        "PATCH", f"/{task['id']}/complete", user, json={"completed": completed}
    ).json()
    answer = api.request("PUT", f"/{task['id']}", user, json=sent)
    assert answer.status_code == 200
    assert answer.json() == before | changed | {"updated_at": answer.json()["updated_at"]}
    assert answer.json()["updated_at"] > before["updated_at"]
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


def test_patch_moves_updated_at_and_changes_nothing_else(api, user, task):
    for completed in (True, False):
        toggled = api.request("PATCH", f"/{task['id']}/complete", user).json()
        assert toggled["updated_at"] > task["updated_at"]
        moved = {"completed": completed, "updated_at": toggled["updated_at"]}
        assert toggled == task | moved
        task = toggled


def test_a_deleted_task_is_gone(api, user, task):
    answer = api.request("DELETE", f"/{task['id']}", user)
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.request("GET", f"/{task['id']}", user).status_code == 404
    assert api.request("DELETE", f"/{task['id']}", user).status_code == 404
    assert api.request("GET", "", user).json() == []


def test_a_user_who_has_as_many_tasks_as_one_may_have_makes_room_by_deleting_one(
    api, database, database_url, user, other, task
):
    fill = "INSERT INTO tasks (user_id, title) SELECT %s, 'x' FROM generate_series(1, 9998)"
    database.execute(fill, user, url=database_url)
    assert api.request("POST", "", user, json={"title": "The last"}).status_code == 201
    for _ in range(2):
        refused = api.request("POST", "", user, json={"title": "One too many"})
        assert refused.status_code == 409
        sentence = "You have 10000 tasks already, which is the most."
        assert refused.json() == {"detail": sentence}
    assert len(api.request("GET", "", user).json()) == 10_000
    assert api.request("POST", "", other, json={"title": "Another's"}).status_code == 201
    api.request("DELETE", f"/{task['id']}", user)
    assert api.request("POST", "", user, json={"title": "In its place"}).status_code == 201
    assert api.request("POST", "", user, json={"title": "One too many"}).status_code == 409


def test_the_bound_on_tasks_takes_no_statement_of_its_own(monkeypatch):
    fetch = AsyncMock(return_value=[])  # what creating a task too many returns
    monkeypatch.setattr(tasks, "fetch", fetch)
    with pytest.raises(HTTPException) as refusal:
        asyncio.run(tasks.create_task(Identity("ada"), TaskCreate(title="x")))
    assert refusal.value.status_code == 409
    fetch.assert_awaited_once()


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
    sent = {"title": "x", "completed": "no"} | extra
    created = api.request("POST", "?sort=title&status=none", user, json=sent).json()
    assert list(created) == KEYS
    assert created["user_id"] == user
    assert created["completed"] is False
    echoed = api.request("PUT", f"/{task['id']}?x=y", user, json=task | extra).json()
    assert echoed == task | {"updated_at": echoed["updated_at"]}


def test_health_needs_no_token(api):
    answer = api.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_bare_address_leads_to_the_docs_wherever_the_service_is(api):
    answer = api.client.get("/", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["Location"]) == (307, "/docs")


@pytest.mark.parametrize("path", ["/health", "/"])
def test_head_is_answered_like_get_without_a_body(api, path):
    head = api.client.head(path)
    get = api.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("Content-Type", "Content-Length", "Location"):
        assert head.headers.get(name) == get.headers.get(name)
