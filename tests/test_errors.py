"""Errors come in one order and one shape, and a browser may read every one of them."""

import pytest

from tests.harness import FRONTEND, token
from tests.test_isolation import ROUTES

ORIGIN = {"Origin": FRONTEND}
EXPIRED = {"Authorization": f"Bearer {token(seconds=-60)}"}


@pytest.mark.parametrize("content", [b"{", b"[" * 60000, b"\xff", b'{"title": 5}', b""])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", ""), ("PUT", "/abc"), ("PATCH", "/abc/complete")]
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


def test_400_comes_before_404(api, user):
    assert api.request("PUT", f"/{2**31 - 1}", user, json={"title": ""}).status_code == 400
    assert api.request("PUT", f"/{2**31 - 1}", user, json={"title": "x"}).status_code == 404


def test_every_error_is_one_sentence_that_a_browser_may_read(api, user, other, task):
    answers = {
        400: api.request("POST", "", user, headers=ORIGIN, json={}),
        401: api.client.get(f"/api/{user}/tasks", headers=ORIGIN),
        403: api.request(
            "GET", "", other, headers=ORIGIN | {"Authorization": f"Bearer {token(user)}"}
        ),
        404: api.request("GET", f"/{2**31 - 1}", user, headers=ORIGIN),
        405: api.request("POST", f"/{task['id']}", user, headers=ORIGIN),
        413: api.request("POST", "", user, headers=ORIGIN, content=b"x" * 100_000),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert list(answer.json()) == ["detail"]
        assert type(answer.json()["detail"]) is str
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/ada", "/api/ada/tasks/1/complete/", "/api/ada/tasks/1/2", "//"]
)
def test_what_is_nowhere_is_404_without_a_redirect(api, path):
    answer = api.client.get(path, headers={"Host": "evil.example"} | ORIGIN)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert "evil" not in str(answer.headers)


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
    assert (
        api.client.options(path, headers=asked | {"Origin": "http://evil.example"}).status_code
        == 400
    )
    headers = ORIGIN | {"Authorization": f"Bearer {token(user)}"}
    answer = api.client.request(method, path, headers=headers, json=body)
    assert answer.is_success
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND


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
