"""The six routes, what they accept, and in which words they refuse."""

import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import FRONTEND, MAX_TASK_ID, token

KEYS = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]
JSON = {"Content-Type": "application/json"}
ORIGIN = {"Origin": FRONTEND}
ROUTES = [
    ("GET", "", None),
    ("POST", "", {"title": "x"}),
    ("GET", "/{id}", None),
    ("PUT", "/{id}", {"title": "Stolen"}),
    ("PATCH", "/{id}/complete", None),
    ("DELETE", "/{id}", None),
]


def create(api, user, *titles):
    """Create a task for each title; return them in that order."""
    return [api.request("POST", "", user, json={"title": title}).json() for title in titles]


def titles_of(answer):
    assert answer.status_code == 200
    return [task["title"] for task in answer.json()]


def test_a_created_task_is_answered_whole(api, user):
    sent = {"title": "  Buy milk\n", "description": "2 litres"}
    task = api.request("POST", "", user, json=sent).json()
    assert list(task) == KEYS
    assert type(task["id"]) is int
    assert task | sent | {"title": "Buy milk", "user_id": user, "completed": False} == task
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", task["created_at"])
    assert task["updated_at"] == task["created_at"]
    assert api.request("GET", f"/{task['id']}", user).json() == task
    assert api.request("GET", "", user).json() == [task]


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


def test_sorted_by_title_is_a_to_z_without_regard_to_case_then_newest_first(api, user):
    create(api, user, "b", "A", "c", "a", "B", "C", "a")
    listed = api.request("GET", "?sort=title", user)
    assert titles_of(listed) == list("aaABbCc")
    ids = [task["id"] for task in listed.json()]
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
        ("?status=pending", "dB"),
        ("?status=completed", "ca"),
        ("?sort=title", "aBcd"),
        ("?status=pending&sort=title", "Bd"),
        ("?STATUS=pending&completed=true&page=2&limit=1&search=x&order=asc", "dcBa"),
        ("/?status=pending&sort=title", "Bd"),
    ],
)
def test_a_list_is_filtered_and_sorted_as_asked(api, reader, parameters, titles):
    assert titles_of(api.request("GET", parameters, reader)) == list(titles)


@pytest.mark.parametrize(
    ("sent", "changed"),
    [
        ({"title": " New "}, {"title": "New"}),
        ({"description": "New"}, {"description": "New"}),
        ({"description": None}, {"description": None}),
        ({"description": ""}, {"description": None}),
        ({"completed": True}, {"completed": True}),
        ({"completed": False}, {"completed": False}),
        ({}, {}),
    ],
)
def test_put_changes_only_the_fields_that_were_sent(api, user, task, sent, changed):
    path = f"/{task['id']}"
    before = api.request("PATCH", f"{path}/complete", user).json()
    answer = api.request("PUT", path, user, json=sent)
    assert answer.status_code == 200
    assert answer.json() == before | changed | {"updated_at": answer.json()["updated_at"]}
    assert answer.json()["updated_at"] > before["updated_at"]
    assert api.request("GET", path, user).json() == answer.json()


def test_a_toggle_moves_updated_at_and_changes_nothing_else_whatever_the_body(api, user, task):
    path = f"/{task['id']}/complete"
    for completed, body in ((True, {"completed": False}), (False, None), (True, {"title": "x"})):
        toggled = api.request("PATCH", path, user, json=body).json()
        assert toggled["updated_at"] > task["updated_at"]
        assert toggled == task | {"completed": completed, "updated_at": toggled["updated_at"]}
        task = toggled


def test_eight_clients_at_once_lose_nothing(api, user):
    def create_first(_: int) -> int:
        return api.request("POST", "", user, json={"title": "x"}).json()["id"]

    def toggle(_: int) -> bool:
        return api.request("PATCH", f"/{ids[0]}/complete", user).json()["completed"]

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(create_first, range(8)))
        answers = list(pool.map(toggle, range(41)))
    assert {task["id"] for task in api.request("GET", "", user).json()} == set(ids)
    assert answers.count(True) == 21
    assert api.request("GET", f"/{ids[0]}", user).json()["completed"] is True


FILL = """
    INSERT INTO tasks (user_id, title, completed, created_at, updated_at)
    SELECT %s, 'x', false, now(), now() FROM generate_series(1, 9998)
"""


def test_a_user_who_has_10_000_tasks_makes_room_by_deleting_one(api, database, user, other, task):
    database.execute(FILL, user, url=api.database)
    assert api.request("POST", "", user, json={"title": "The last"}).status_code == 201
    refused = api.request("POST", "", user, json={"title": "One too many"})
    assert refused.status_code == 409
    assert refused.json() == {"detail": "You have 10000 tasks already, which is the most."}
    assert len(api.request("GET", "", user).json()) == 10_000
    assert api.request("POST", "", other, json={"title": "Another's"}).status_code == 201
    api.request("DELETE", f"/{task['id']}", user)
    assert api.request("POST", "", user, json={"title": "In its place"}).status_code == 201


def test_a_trailing_slash_makes_no_difference_and_no_redirect(api, user):
    created = api.request("POST", "/", user, json={"title": "x"})
    assert (created.status_code, list(created.json())) == (201, KEYS)
    listed = api.request("GET", "/", user)
    assert (listed.status_code, listed.json()) == (200, [created.json()])


def test_fields_and_parameters_that_are_not_the_services_are_ignored(api, user, other, task):
    extra = {"id": 1, "user_id": other, "priority": "high", "created_at": "never", "dueDate": None}
    sent = {"title": "x", "completed": "no"} | extra
    created = api.request("POST", "?sort=title&status=none", user, json=sent).json()
    assert list(created) == KEYS
    assert (created["user_id"], created["completed"]) == (user, False)
    echoed = api.request("PUT", f"/{task['id']}?x=y", user, json=task | extra).json()
    assert echoed == task | {"updated_at": echoed["updated_at"]}


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f600" * 200,
        r"\"quoted\" 'twice' \ \u0000 %s %(x)s",
        "tab\tbreak\nreturn\rbell\x07escape\x1bdelete\x7f",
        "\U0001f468\u200d\U0001f469 \u202e\u2028\ufeff\uffff",
    ],
)
def test_texts_are_kept_as_they_are_in_reads_and_lists(api, user, text):
    task = api.request("POST", "", user, json={"title": text, "description": f" {text} "}).json()
    assert (task["title"], task["description"]) == (text, f" {text} ")
    read = api.request("GET", f"/{task['id']}", user)
    assert read.headers["Content-Type"] == "application/json"
    assert read.json() == task
    assert api.request("GET", "", user).text == f"[{read.text}]"


NO_TEXT = "Input should be a valid string"
NUL = r"String should match pattern '^[^\x00]*$'"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("title", "", "String should have at least 1 character"),
        ("title", " \t\n\u3000", "String should have at least 1 character"),
        ("title", "x" * 201, "String should have at most 200 characters"),
        ("title", "a\0b", NUL),
        ("title", None, NO_TEXT),
        ("title", ["secret"], NO_TEXT),
        ("description", "x" * 1001, "String should have at most 1000 characters"),
        ("description", "a\0", NUL),
    ],
)
def test_a_bad_text_is_400_and_changes_nothing(api, user, task, field, value, rule):
    for method, path in (("POST", ""), ("PUT", f"/{task['id']}")):
        answer = api.request(
            method, path, user, json={"title": "x", "completed": True, field: value}
        )
        assert (answer.status_code, answer.json()) == (400, {"detail": f"{field}: {rule}"})
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize("completed", [None, 1, "true", []])
def test_completed_is_true_or_false_and_nothing_like_it(api, user, task, completed):
    answer = api.request("PUT", f"/{task['id']}", user, json={"completed": completed})
    rule = "completed: Input should be a valid boolean"
    assert (answer.status_code, answer.json()) == (400, {"detail": rule})
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", JSON),
        (b"[]", JSON),
        (b'{"title": "x"', JSON),
        (b'{"title": "\xff"}', JSON),
        (rb'{"title": "\ud800"}', JSON),
        (b'{"title": NaN}', JSON),
        (b"[" * 60000, JSON),
        (b'{"title": "x", "n": ' + b"9" * 5000 + b"}", JSON),
        (b'{"title": "x"}', {"Content-Type": "text/plain"}),
        (b"title=x", {"Content-Type": "application/x-www-form-urlencoded"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_a_json_object_is_400(api, user, task, body, headers):
    for method, path in (("POST", ""), ("PUT", f"/{task['id']}")):
        answer = api.request(method, path, user, headers=headers, content=body)
        assert answer.status_code == 400
        assert type(answer.json()["detail"]) is str
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize(
    "task_id", ["0", "-1", str(MAX_TASK_ID + 1), str(2**64), "abc", "1.5", "%00", "9" * 5000]
)
def test_an_id_that_cannot_be_is_400(api, user, task_id):
    for method, path in (("GET", ""), ("PUT", ""), ("PATCH", "/complete"), ("DELETE", "")):
        answer = api.request(method, f"/{task_id}{path}", user, json={"title": "x"})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("task_id: ")
        assert "999" not in answer.text


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ("status=secret", "status: Input should be 'all', 'pending' or 'completed'"),
        ("status=all&sort=-created", "sort: Input should be 'created' or 'title'"),
    ],
)
def test_another_status_or_sort_is_400(api, user, parameters, rule):
    answer = api.request("GET", f"?{parameters}", user)
    assert (answer.status_code, answer.json()) == (400, {"detail": rule})


def body_of(length):
    """Return a JSON object of so many bytes."""
    return b'{"title": "x", "padding": "' + b"x" * (length - 29) + b'"}'


def chunks_of(sizes):
    """Yield a JSON object in chunks of these sizes, which arrive apart and without its length."""
    body = body_of(sum(sizes))
    for size in sizes:
        yield body[:size]
        body = body[size:]
        time.sleep(0.005)


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/{id}")])
def test_bodies_of_64_kib_are_taken_and_larger_ones_are_413(api, user, task, method, path):
    path = path.format(id=task["id"])
    headers = JSON | ORIGIN
    for content in (
        body_of(65537),
        body_of(5_000_000),
        chunks_of([65536, 1]),
        chunks_of([1] * 9 + [65528]),
    ):
        answer = api.request(method, path, user, headers=headers, content=content)
        assert answer.status_code == 413
        assert answer.json() == {"detail": "The body is larger than 65536 bytes."}
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert api.request("GET", "", user).json() == [task]
    for content in (body_of(65536), chunks_of([32768, 32768])):
        assert api.request(method, path, user, headers=headers, content=content).is_success


def test_a_body_that_no_route_reads_is_not_held_against_anyone(api, user, task):
    large = {"content": b"x" * 100_000}
    assert api.request("GET", "", user, **large).status_code == 200
    assert api.request("PATCH", f"/{task['id']}/complete", user, **large).status_code == 200
    assert api.request("DELETE", f"/{task['id']}", user, **large).status_code == 204


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("POST", "/"), ("PUT", "/abc"), ("PATCH", "/abc/complete"), ("GET", "?sort=x")],
)
def test_401_comes_before_403_before_400(api, method, path):
    for text, status in (
        (token("eve", seconds=-60), 401),
        (token("eve"), 403),
        (token("ada"), 400),
    ):
        answer = api.request(method, path, bearer=text, json={"title": 5})
        assert answer.status_code == status


def test_json_that_cannot_be_parsed_is_400_and_a_large_body_413_even_without_a_token(api):
    nobody = JSON | {"Authorization": ""}
    assert api.request("POST", headers=nobody, content=b"{").status_code == 400
    assert api.request("POST", headers=nobody, content=b"x" * 100_000).status_code == 413


def test_400_comes_before_404(api, user):
    for title, status in (("", 400), ("x", 404)):
        answer = api.request("PUT", f"/{MAX_TASK_ID}", user, json={"title": title})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("status", "method", "path", "sent"),
    [
        (400, "POST", "", {"json": {}}),
        (400, "POST", "", {"content": b"{"}),
        (400, "GET", "?status=x", {}),
        (401, "GET", "", {"headers": {"Authorization": ""}}),
        (403, "GET", "", {"bearer": token("eve")}),
        (404, "GET", f"/{MAX_TASK_ID}", {}),
        (405, "POST", "/1", {}),
    ],
)
def test_every_error_is_a_text_that_a_browser_may_read(api, status, method, path, sent):
    headers = ORIGIN | sent.get("headers", {})
    answer = api.request(method, path, **sent | {"headers": headers})
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert type(answer.json()["detail"]) is str
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize("path", ["/api", "/api/ada/tasks/1/complete/", "//", "/health/"])
def test_what_is_nowhere_is_404_without_a_redirect(api, path):
    answer = api.client.get(f"{api.url}{path}", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "evil" not in str(answer.headers)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (FRONTEND, True),
        ("https://app.example.com", True),
        ("http://evil.example", False),
        ("http://localhost:3001", False),
        ("null", False),
    ],
)
def test_pages_of_the_trusted_origins_may_send_every_request_and_no_others(api, origin, is_allowed):
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = api.client.options("/api/ada/tasks", headers=asked)
        assert preflight.status_code == (200 if is_allowed else 400)
        assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
        assert method in preflight.headers["Access-Control-Allow-Methods"]
    answer = api.request("GET", headers={"Origin": origin})
    assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == is_allowed
    assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"


def test_health_needs_no_token_and_uptime_monitors_may_send_head(api):
    assert api.client.get("/health").json() == {"status": "ok"}
    answer = api.client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")
