"""Errors come in one order and one shape, and a browser may read every one of them."""

import pytest

from tests.harness import FRONTEND, MAX_TASK_ID, token
from tests.test_isolation import ROUTES

ORIGIN = {"Origin": FRONTEND}
EXPIRED = {"Authorization": f"Bearer {token(seconds=-60)}"}
TASKS = "/api/ada/tasks"


@pytest.mark.parametrize("content", [b"{", b"[" * 60000, b"\xff", b'{"title": 5}', b""])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ""),
        ("POST", "/"),
        ("PUT", "/abc"),
        ("PATCH", "/abc/complete"),
        ("GET", "?status=x"),
        ("GET", "/?sort=x"),
    ],
)
def test_401_comes_before_403_before_400(api, method, path, content):
    json = {"Content-Type": "application/json"}

    def status(user: str, **headers: str) -> int:
        return api.request(method, path, user, headers=json | headers, content=content).status_code

    assert status("ada", **EXPIRED) == 401
    assert status("ada", Authorization="") == 401
    assert status("bob", **EXPIRED) == 401
    assert status("bob", Authorization=f"Bearer {token('ada')}") == 403
    assert status("ada") == 400


def test_413_comes_before_401(api, user):
    large = {"content": b"x" * 100_000, "headers": {"Authorization": ""}}
    assert api.request("POST", "", user, **large).status_code == 413


def test_400_comes_before_404(api, user):
    assert api.request("PUT", f"/{MAX_TASK_ID}", user, json={"title": ""}).status_code == 400
    assert api.request("PUT", f"/{MAX_TASK_ID}", user, json={"title": "x"}).status_code == 404


def assert_is_a_sentence_for_the_browser(answer):
    assert list(answer.json()) == ["detail"]
    sentence = answer.json()["detail"]
    assert " " in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize(
    ("status", "method", "path", "sent"),
    [
        (400, "POST", "", {"json": {}}),
        (400, "POST", "", {"json": {"title": "x", "description": 5}}),
        (400, "POST", "", {"content": b"{"}),
        (400, "GET", "?status=x", {}),
        (400, "GET", "?sort=x", {}),
        (400, "GET", "/abc", {}),
        (401, "GET", "", {"headers": {"Authorization": ""}}),
        (401, "GET", "", {"headers": {"Authorization": "Bearer x"}}),
        (401, "GET", "", {"headers": {"Authorization": "Bearer x.y.z"}}),
        (401, "GET", "", {"headers": EXPIRED}),
        (403, "GET", "", {"headers": {"Authorization": f"Bearer {token('eve')}"}}),
        (404, "GET", f"/{MAX_TASK_ID}", {}),
        (404, "GET", "/1/2/3", {}),
        (405, "POST", "/1", {}),
        (413, "POST", "", {"content": b"x" * 100_000}),
    ],
)
def test_every_error_is_one_sentence_that_a_browser_may_read(api, status, method, path, sent):
    headers = ORIGIN | sent.get("headers", {})
    answer = api.request(method, path, **sent | {"headers": headers})
    assert answer.status_code == status
    assert_is_a_sentence_for_the_browser(answer)


@pytest.mark.parametrize(
    "path", ["/api", "/api/ada", f"{TASKS}/1/complete/", f"{TASKS}/1/2", "//", "/health/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_nowhere_is_404_without_a_redirect(api, method, path):
    headers = {"Host": "evil.example"} | ORIGIN
    answer = api.client.request(method, f"{api.url}{path}", headers=headers)
    assert answer.status_code == 404
    assert answer.json() == {"detail": "There is nothing at this address."}
    assert_is_a_sentence_for_the_browser(answer)
    assert "evil" not in str(answer.headers)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (TASKS, ["GET", "POST"]),
        (f"{TASKS}/", ["GET", "POST"]),
        (f"{TASKS}/1", ["DELETE", "GET", "PUT"]),
        (f"{TASKS}/1/complete", ["PATCH"]),
        ("/health", ["GET", "HEAD"]),
        ("/", ["GET", "HEAD"]),
        ("/docs", ["GET", "HEAD"]),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_405_names_every_method_of_the_address(api, method, path, allowed):
    answer = api.client.request(method, path, headers=ORIGIN)
    if method in allowed:
        assert answer.status_code != 405
        return
    assert answer.status_code == 405
    assert sorted(answer.headers["Allow"].split(", ")) == allowed
    if method != "HEAD":
        assert answer.json() == {"detail": "This address does not take this method."}
        assert_is_a_sentence_for_the_browser(answer)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_the_frontend_may_send_every_request_with_credentials(api, user, task, method, path, body):
    path = f"/api/{user}/tasks{path.format(id=task['id'])}"
    asked = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = api.client.options(path, headers=ORIGIN | asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
    assert method in preflight.headers["Access-Control-Allow-Methods"]
    evil = asked | {"Origin": "http://evil.example"}
    assert api.client.options(path, headers=evil).status_code == 400
    headers = ORIGIN | {"Authorization": f"Bearer {token(user)}"}
    answer = api.client.request(method, path, headers=headers, json=body)
    assert answer.is_success
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND


def test_a_page_may_read_when_to_try_again(api):
    answer = api.client.get("/health", headers=ORIGIN)
    assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:3001", "https://localhost:3000", "null"]
)
def test_another_origin_gets_nothing_to_read(api, user, origin):
    answer = api.request("GET", "", user, headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", [FRONTEND, "https://app.example.com", "http://[::1]:8080"])
def test_trusted_origins_are_allowed_too(api, origin):
    answer = api.client.get("/health", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
