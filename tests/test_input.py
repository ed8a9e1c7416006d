"""Bad input is 400 with one sentence that names the field, and changes nothing."""

import time

import pytest

from tests.harness import FRONTEND, MAX_TASK_ID, token

TITLE = {"detail": "title must be text of 1 to 200 characters, not all blank, without NUL."}
DESCRIPTION = {
    "detail": "description must be null or text of at most 1000 characters, without NUL."
}
COMPLETED = {"detail": "completed must be true or false."}
TASK_ID = {"detail": "task_id must be a whole number from 1 to 9007199254740991."}
STATUS = {"detail": "status must be all, pending or completed."}
SORT = {"detail": "sort must be created or title."}
BODY = {"detail": "body must be a JSON object, sent as application/json."}

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one picture, five code points
TITLES = [
    "x",
    "x" * 200,
    "\U0001f600" * 200,
    "e\u0301" * 100,
    FAMILY * 40,
    f" {'x' * 200}\n",
    "a\nb\tc",
    "\u202e",
    "'; --",
    "%s",
]
BAD_TITLES = [
    "",
    " ",
    "\t\n\u3000\u00a0",
    "x" * 201,
    "\U0001f600" * 201,
    "e\u0301" * 101,
    FAMILY * 41,
    "a\0",
    "\0",
]
NOT_TEXT = [5, 1.5, True, [], ["x"], {}, {"x": 1}]
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("title", TITLES)
def test_titles_of_1_to_200_code_points_are_kept_but_for_blanks_around_them(api, user, title):
    task = api.request("POST", "", user, json={"title": title}).json()
    assert task["title"] == title.strip()
    assert api.request("GET", f"/{task['id']}", user).json() == task


@pytest.mark.parametrize("description", [" x ", "\U0001f600" * 1000, " ", "\n"])
def test_descriptions_are_kept_as_they_are(api, user, description):
    sent = {"title": "x", "description": description}
    task = api.request("POST", "", user, json=sent).json()
    assert task["description"] == description
    assert api.request("GET", f"/{task['id']}", user).json() == task


@pytest.mark.parametrize("title", [*BAD_TITLES, *NOT_TEXT, None])
def test_a_bad_title_is_400(api, user, task, title):
    for method, path in (("POST", ""), ("PUT", f"/{task['id']}")):
        answer = api.request(method, path, user, json={"title": title, "completed": True})
        assert (answer.status_code, answer.json()) == (400, TITLE)
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize(
    "text", [rb'"\ud800"', rb'"a\udfff\ud800b"', b"NaN", b"Infinity", b"-Infinity", b"1e999"]
)
def test_what_is_not_quite_json_text_is_400(api, user, task, text):
    for method, path in (("POST", ""), ("PUT", f"/{task['id']}")):
        answer = api.request(method, path, user, headers=JSON, content=b'{"title": %s}' % text)
        assert (answer.status_code, answer.json()) == (400, TITLE)


@pytest.mark.parametrize("description", ["x" * 1001, "\U0001f600" * 1001, "a\0", *NOT_TEXT])
def test_a_bad_description_is_400(api, user, task, description):
    for method, path in (("POST", ""), ("PUT", f"/{task['id']}")):
        answer = api.request(method, path, user, json={"title": "x", "description": description})
        assert (answer.status_code, answer.json()) == (400, DESCRIPTION)
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize("completed", [None, 0, 1, "true", "", [], {}])
def test_completed_is_true_or_false_and_nothing_like_it(api, user, task, completed):
    for method, path in (("PUT", ""), ("PATCH", "/complete")):
        answer = api.request(method, f"/{task['id']}{path}", user, json={"completed": completed})
        assert (answer.status_code, answer.json()) == (400, COMPLETED)
    assert api.request("GET", "", user).json() == [task]


def test_a_task_needs_a_title(api, user):
    answer = api.request("POST", "", user, json={"description": "x"})
    assert (answer.status_code, answer.json()) == (400, TITLE)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", JSON),
        (b"null", JSON),
        (b"[]", JSON),
        (b'"x"', JSON),
        (b"5", JSON),
        (b"NaN", JSON),
        (b"{", JSON),
        (b'{"title": "x"', JSON),
        (b"{'title': 'x'}", JSON),
        (b'{"title": "\xff"}', JSON),
        (b"\0", JSON),
        (b"[" * 60000, JSON),
        (b'{"a":' * 10000, JSON),
        (b'{"title": "x", "n": ' + b"9" * 5000 + b"}", JSON),
        (b'{"title": "x"}', {"Content-Type": "text/plain"}),
        (b'{"title": "x"}', {"Content-Type": "multipart/form-data"}),
        (b'{"title": "x"}', {"Content-Type": "\xff/;;"}),
        (b'{"title": "x"}', {}),
        (b"title=x", {"Content-Type": "application/x-www-form-urlencoded"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_a_json_object_is_400(api, user, task, body, headers):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    routes = [("POST", ""), ("PUT", f"/{task['id']}")]
    if body not in (b"", b"null"):  # which PATCH takes for no body
        routes.append(("PATCH", f"/{task['id']}/complete"))
    for method, path in routes:
        answer = api.request(method, path, user, headers=headers, content=body)
        assert (answer.status_code, answer.json()) == (400, BODY)
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "task_id",
    [
        "0",
        "-1",
        str(MAX_TASK_ID + 1),
        str(2**63),
        str(2**64),
        "1_0",
        "+1",
        "%201",
        "1.0",
        "1e3",
        "0x1",
        "abc",
        "null",
        "True",
        "%00",
        "%ff",
        "%D9%A1",
        "9" * 5000,
    ],
    ids=lambda value: value[:20],
)
def test_an_id_that_cannot_be_is_400(api, user, method, task_id):
    path = f"/{task_id}/complete" if method == "PATCH" else f"/{task_id}"
    body = {"title": "x"} if method == "PUT" else None
    answer = api.request(method, path, user, json=body)
    assert (answer.status_code, answer.json()) == (400, TASK_ID)


@pytest.mark.parametrize("task_id", [2**31, MAX_TASK_ID, "00000000001"])
def test_an_id_that_could_be_is_404(api, user, task_id):
    assert api.request("GET", f"/{task_id}", user).status_code == 404


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ("status=", STATUS),
        ("status=done", STATUS),
        ("status=Pending", STATUS),
        ("status=pending%20", STATUS),
        ("status=%00", STATUS),
        ("status=all&status=done", STATUS),
        ("status=pending,completed", STATUS),
        ("sort=", SORT),
        ("sort=Title", SORT),
        ("sort=-created", SORT),
        ("sort=id;DROP", SORT),
        ("sort=title&sort=", SORT),
        ("status=all&sort=x", SORT),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_another_status_or_sort_is_400(api, user, slash, parameters, rule):
    answer = api.request("GET", f"{slash}?{parameters}", user)
    assert (answer.status_code, answer.json()) == (400, rule)


TOO_LARGE = {"detail": "The body is larger than 65536 bytes."}
ROUTES_WITH_A_BODY = [("POST", ""), ("PUT", "/{id}"), ("PATCH", "/{id}/complete")]


def body_of(length):
    """Return a JSON object of so many bytes."""
    start = b'{"title": "x", "padding": "'
    end = b'"}'
    return start + b"x" * (length - len(start) - len(end)) + end


def chunks_of(sizes):
    """Yield a JSON object in chunks of these sizes, which arrive apart and without its length."""
    body = body_of(sum(sizes))
    for size in sizes:
        yield body[:size]
        body = body[size:]
        if body:
            time.sleep(0.005)


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize("sizes", [[65536], [32768, 32768], [1, 65535], [65535, 1]], ids=str)
def test_bodies_of_64_kib_are_taken(api, user, task, method, path, sizes):
    path = path.format(id=task["id"])
    for content in (body_of(65536), chunks_of(sizes)):
        assert api.request(method, path, user, headers=JSON, content=content).is_success


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize(
    "sizes",
    [
        [65537],
        [102400],
        [5_000_000],
        [33000, 33000],
        [1, 65537],
        [65536, 1],
        [1000, 4_999_000],
        [20000, 20000, 20000, 20000],
    ],
    ids=str,
)
def test_bodies_over_64_kib_are_413(api, user, task, method, path, sizes):
    path = path.format(id=task["id"])
    headers = JSON | {"Origin": FRONTEND}
    for content in (body_of(sum(sizes)), chunks_of(sizes)):
        answer = api.request(method, path, user, headers=headers, content=content)
        assert (answer.status_code, answer.json()) == (413, TOO_LARGE)
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert api.request("GET", "", user).json() == [task]


def test_a_body_that_no_route_reads_is_not_held_against_anyone(api, user, task):
    assert api.request("GET", "", user, content=b"x" * 100_000).status_code == 200
    assert api.request("DELETE", f"/{task['id']}", user, content=b"x" * 100_000).status_code == 204


def test_an_error_never_repeats_what_was_sent(api, user):
    for sent in (
        {"title": ["secret-title"]},
        {"title": "secret-title" * 20},
        {"title": "x", "description": 7777777},
    ):
        text = api.request("POST", "", user, json=sent).text
        assert "secret" not in text
        assert "777" not in text


def test_a_header_that_is_not_ascii_does_no_harm(api):
    headers = {"Authorization": f"Bearer {token()}", "X-Odd": b"\xff\x80"}
    answer = api.client.get("/api/ada/tasks", headers=headers)
    assert answer.status_code == 200
