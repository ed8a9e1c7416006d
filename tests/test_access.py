"""Who gets in, and that nobody sees or changes another user's tasks, nor learns which exist."""

import base64
import inspect
import json
import re
import time

import jwt
import pytest

from backend.dependencies import CurrentUser
from backend.routes import tasks
from tests.harness import FRONTEND, MAX_TASK_ID, SECRET, token
from tests.test_tasks import ROUTES

HEADER, PAYLOAD, SIGNATURE = token("ada").split(".")
INVALID = "The token is invalid."
EXPIRED = "The token has expired."
TOO_LONG = "The token is too long: at most 16384 characters."
NO_JWT = "The token is not a JWT; authClient.token() of Better Auth's jwt plugin gives one."
NOT_SENT = "Send a token in the header Authorization, as Bearer <token>."


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_another_users_path_is_403_whether_or_not_user_and_task_exist(
    api, user, other, task, method, path, body
):
    answers = [
        api.request(method, path.format(id=task_id), owner, bearer=token(other), json=body)
        for owner, task_id in ((user, task["id"]), (user, MAX_TASK_ID), ("nobody", task["id"]))
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert api.request("GET", "", user).json() == [task]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES[2:])
def test_another_users_task_is_404_like_one_that_does_not_exist(
    api, user, other, task, method, path, body
):
    foreign = api.request(method, path.format(id=task["id"]), other, json=body)
    missing = api.request(method, path.format(id=MAX_TASK_ID), other, json=body)
    assert (foreign.status_code, foreign.content) == (404, missing.content)
    assert missing.status_code == 404
    assert api.request("GET", f"/{task['id']}", user).json() == task


@pytest.mark.parametrize("sort", ["created", "title"])
def test_lists_hold_only_ones_own_tasks(api, user, other, task, sort):
    mine = api.request("POST", "", other, json={"title": "Mine"}).json()
    assert api.request("GET", f"?sort={sort}", other).json() == [mine]
    assert api.request("GET", f"?sort={sort}", user).json() == [task]


@pytest.mark.parametrize("owner", ["{user}%20", "{USER}", "%20{user}", "{user}%00", "%2e"])
def test_a_path_that_only_resembles_ones_own_is_403(api, user, owner):
    path = owner.format(user=user, USER=user.upper())
    assert api.request("GET", "", path, bearer=token(user)).status_code == 403


@pytest.mark.parametrize(
    "route", tasks.router.routes, ids=lambda route: f"{route.name} {route.path}"
)
def test_each_route_asks_for_the_current_user(route):
    assert inspect.signature(route.endpoint).parameters["user"].annotation == CurrentUser
    assert route.path.startswith("/api/{user_id}/tasks")


STATEMENTS = [
    text
    for value in vars(tasks).values()
    for text in (value.values() if isinstance(value, dict) else [value])
    if isinstance(text, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)\s", text)
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_statement_names_the_owner(statement):
    assert "user_id = %(user_id)s" in statement
    # Outside brackets, OR would leave a way around the owner.
    assert " OR " not in statement.partition(" AND (")[0]


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def part(value: object) -> str:
    return encoded(json.dumps(value).encode())


def signed(payload: object, key: bytes = SECRET.encode(), **header: object) -> str:
    """Return any payload, signed as HS256 is."""
    signer = jwt.get_algorithm_by_name("HS256")
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'} | header)}.{part(payload)}"
    signature = signer.sign(text.encode(), key)
    return f"{text}.{encoded(signature)}"


GENUINE = {
    "bare": token(),
    "with issuer and audience": token(iss=FRONTEND, aud=FRONTEND),
    "of another trusted origin": token(iss="https://app.example.com", aud="http://[::1]:8080"),
    "with a list of audiences": token(aud=["https://else.example", FRONTEND]),
    "with claims of other kinds": token(id="eve", email=5, name=["x"], role="admin", jti="x"),
    "with a kid, which the secret has not": token(kid="any"),
    "of 16 KiB, less a little": token(image="x" * 12100),
}
REFUSED = {
    "expired": (token(seconds=-60), EXPIRED),
    "a session token of Better Auth": ("2hoJ9QNmTlVQBMtUy0rZCJd6VLRFN4Cg", NO_JWT),
    "two parts": (f"{HEADER}.{PAYLOAD}", NO_JWT),
    "over 16 KiB": (token(image="x" * 12400), TOO_LONG),
    "over 16 KiB, and nothing else": ("x" * 16385, TOO_LONG),
    "empty parts": ("..", INVALID),
    "unsigned": (f"{part({'alg': 'none', 'typ': 'JWT'})}.{PAYLOAD}.", INVALID),
    "another secret": (token(key=SECRET + "x"), INVALID),
    "HS512": (token(algorithm="HS512"), INVALID),
    "no exp": (token(exp=None), INVALID),
    "exp infinite": (signed({"sub": "ada", "exp": 1e400}), INVALID),
    "not yet valid": (token(nbf=2**40), INVALID),
    "no sub but an id and an e-mail": (token(sub=None, id="ada", email="ada"), INVALID),
    "sub a number": (signed({"sub": 5, "exp": 2**40}), INVALID),
    "sub empty": (token(sub=""), INVALID),
    "sub of 256 characters": (token(sub="a" * 256), INVALID),
    "sub with a line break": (token(sub="ada\n"), INVALID),
    "sub a lone surrogate": (signed({"sub": "\ud800", "exp": 2**40}), INVALID),
    "another issuer": (token(iss="http://evil.example"), INVALID),
    "no audience of ours": (token(aud=["http://evil.example", {}]), INVALID),
    "four parts": (f"{token()}.x", NO_JWT),
    "another audience": (token(aud="http://evil.example"), INVALID),
    "kid is a list": (signed({"sub": "ada", "exp": 2**40}, kid=["x"]), INVALID),
    "alg is a list": (signed({"sub": "ada", "exp": 2**40}, alg=["HS256"]), INVALID),
    "payload not an object": (signed(["ada"]), INVALID),
    "issuer null": (signed({"sub": "ada", "exp": 2**40, "iss": None}), INVALID),
    "audience empty": (signed({"sub": "ada", "exp": 2**40, "aud": []}), INVALID),
    "audience a number": (signed({"sub": "ada", "exp": 2**40, "aud": 5}), INVALID),
    "deeply nested": (f"{part({'alg': 'HS256'})}.{encoded(b'[' * 6000)}.x", INVALID),
    "not ASCII": ("\xe9.\xe9.\xe9", INVALID),
}


@pytest.mark.parametrize("text", GENUINE.values(), ids=GENUINE)
def test_a_genuine_token_is_accepted(api, text):
    for _ in range(2):  # seen for the first time, and remembered
        assert api.request("GET", bearer=text).status_code == 200


def test_the_clocks_may_differ_by_30_seconds(api):
    for text in (token(seconds=-20), token(nbf=int(time.time()) + 20)):
        assert api.request("GET", bearer=text).status_code == 200


@pytest.mark.parametrize("sub", ["a" * 255, "a b", "ü-😀", "a@b.c", "a.b~c"])
def test_any_printable_sub_is_a_user(api, sub):
    assert api.request("GET", user=sub).status_code == 200


@pytest.mark.parametrize(("text", "detail"), REFUSED.values(), ids=REFUSED)
def test_a_token_that_is_not_genuine_is_401(api, text, detail):
    answer = api.request("GET", bearer=text)
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("name", ["expired", "another secret", "unsigned"])
def test_such_a_token_is_401_on_every_route(api, method, path, body, name):
    text, detail = REFUSED[name]
    answer = api.request(method, path.format(id=1), bearer=text, json=body)
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {token()}", token()])
def test_no_bearer_token_is_401_wherever_else_one_stands(api, header):
    headers = {"Cookie": f"token={token()}"}
    if header is not None:
        headers["Authorization"] = header
    answer = api.client.get(f"/api/ada/tasks?access_token={token()}", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": NOT_SENT})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("claims", "row"),
    [
        ({}, (None, None)),
        ({"email": "ada@example.com", "name": "Ada L"}, ("ada@example.com", "Ada L")),
        ({"email": "a\0b", "name": "Ada \0\ud800L"}, ("ab", "Ada L")),
        ({"email": 5, "name": ["x"]}, ("5", "['x']")),
        ({"email": "a" * 256, "name": "x" * 256}, ("a" * 255, "x" * 255)),
    ],
)
def test_the_users_row_is_made_with_the_first_task_and_never_changed(
    api, database, user, claims, row
):
    def create_task(**claims):
        text = token(user, **claims)
        assert api.request("POST", "", user, bearer=text, json={"title": "x"}).is_success

    def rows():
        statement = "SELECT email, name, created_at, xmin::text FROM users WHERE id = %s"
        return database.execute(statement, user, url=api.database)

    api.request("GET", "", user)
    assert rows() == []
    create_task(**claims)
    first = rows()
    assert [(email, name) for email, name, *_ in first] == [row]
    create_task(email="new@example.com", name="New")
    assert rows() == first
