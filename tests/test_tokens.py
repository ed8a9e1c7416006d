"""Which tokens are genuine: each refusal holds for all six routes."""

import base64
import json
import time

import jwt
import pytest

from backend.dependencies import EXPIRED, NO_JWT, NOT_GENUINE, NOT_SENT
from tests.harness import FRONTEND, SECRET, token
from tests.test_isolation import ROUTES

HEADER, PAYLOAD, SIGNATURE = token("ada").split(".")


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def part(value: object) -> str:
    return encoded(json.dumps(value).encode())


def signed(payload: object, **header: object) -> str:
    """Return any payload, signed with the secret as HS256 is."""
    signer = jwt.get_algorithm_by_name("HS256")
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'} | header)}.{part(payload)}"
    signature = signer.sign(text.encode(), SECRET.encode())
    return f"{text}.{encoded(signature)}"


GENUINE = {
    "bare": token(),
    "with issuer and audience": token(iss=FRONTEND, aud=FRONTEND),
    "with a list of audiences": token(aud=["https://else.example", FRONTEND]),
    "with claims of other kinds": token(id="eve", email=5, name=["x"], role="admin", jti="x"),
    "with a kid, which the secret has not": token(kid="any"),
}
NO_LONGER = {"expired": token(seconds=-60), "expired long ago": token(exp=1)}
NOT_THREE_PARTS = {
    "one part": "x",
    "a session token of Better Auth": "2hoJ9QNmTlVQBMtUy0rZCJd6VLRFN4Cg",
    "two parts": f"{HEADER}.{PAYLOAD}",
    "four parts": f"{token()}.x",
    "five parts": f"{token()}.x.y",
    "one part, over 8 KiB": "x" * 9000,
}
INVALID = {
    "empty parts": "..",
    "unsigned": f"{part({'alg': 'none', 'typ': 'JWT'})}.{PAYLOAD}.",
    "signature left out": f"{HEADER}.{PAYLOAD}.",
    "signature of another token": f"{HEADER}.{PAYLOAD}.{token('eve').split('.')[2]}",
    "payload of another token": f"{HEADER}.{part({'sub': 'ada', 'exp': 2**40})}.{SIGNATURE}",
    "another secret": token(key=SECRET + "x"),
    "the empty secret": token(key=b"\0" * 32),
    "HS384": token(algorithm="HS384"),
    "HS512": token(algorithm="HS512"),
    "no alg": signed({"sub": "ada", "exp": 2**40}, alg=None),
    "alg is a list": signed({"sub": "ada", "exp": 2**40}, alg=["HS256"]),
    "unknown critical header": signed({"sub": "ada", "exp": 2**40}, crit=["x"], x=1),
    "detached payload": signed({"sub": "ada", "exp": 2**40}, b64=False, crit=["b64"]),
    "payload not an object": signed(["ada"]),
    "no exp": token(exp=None),
    "exp not a number": token(exp="soon"),
    "exp infinite": signed({"sub": "ada", "exp": 1e400}),
    "not yet valid": token(nbf=2**40),
    "issued in the future": token(iat=2**40),
    "no sub but an id and an e-mail": token(sub=None, id="ada", email="ada"),
    "sub null": signed({"sub": None, "exp": 2**40}),
    "sub a number": signed({"sub": 5, "exp": 2**40}),
    "sub empty": token(sub=""),
    "sub with a line break": token(sub="ada\n"),
    "sub with NUL": token(sub="ada\0"),
    "sub a lone surrogate": signed({"sub": "\ud800", "exp": 2**40}),
    "sub of 256 characters": token(sub="a" * 256),
    "another issuer": token(iss="http://evil.example"),
    "issuer with a slash": token(iss=f"{FRONTEND}/"),
    "issuer null": signed({"sub": "ada", "exp": 2**40, "iss": None}),
    "issuer a list": signed({"sub": "ada", "exp": 2**40, "iss": [FRONTEND]}),
    "another audience": token(aud="http://evil.example"),
    "no audience of ours": token(aud=["http://evil.example", "x"]),
    "audience empty": signed({"sub": "ada", "exp": 2**40, "aud": []}),
    "audience null": signed({"sub": "ada", "exp": 2**40, "aud": None}),
    "over 8 KiB": token(padding="x" * 8192),
    "deeply nested": f"{part({'alg': 'HS256'})}.{encoded(b'[' * 6000)}.x",
    "not ASCII": "\xe9.\xe9.\xe9",
}
REFUSED = INVALID | NOT_THREE_PARTS | NO_LONGER
# For each of them, what the client is told.
DETAILS = (
    dict.fromkeys(INVALID, NOT_GENUINE)
    | dict.fromkeys(NOT_THREE_PARTS, NO_JWT)
    | dict.fromkeys(NO_LONGER, EXPIRED)
)


def test_a_refusal_is_told_in_a_sentence():
    assert NOT_SENT == "Send a token in the header Authorization, as Bearer <token>."
    assert EXPIRED == "The token has expired."
    assert NOT_GENUINE == "The token is invalid."
    assert NO_JWT == (
        "The token is not a JWT; authClient.token() of Better Auth's jwt plugin gives one."
    )


@pytest.mark.parametrize("text", GENUINE.values(), ids=GENUINE)
def test_a_genuine_token_is_accepted(api, text):
    for _ in range(2):  # seen for the first time, and remembered
        assert api.request("GET", headers={"Authorization": f"Bearer {text}"}).status_code == 200


def test_the_clocks_may_differ_by_30_seconds(api):
    soon = int(time.time()) + 20
    for text in (token(seconds=-20), token(nbf=soon), token(iat=soon)):
        assert api.request("GET", headers={"Authorization": f"Bearer {text}"}).status_code == 200


def test_the_scheme_is_case_insensitive(api):
    assert api.request("GET", headers={"Authorization": f"bearer {token()}"}).status_code == 200


@pytest.mark.parametrize("sub", ["a" * 255, "a b", "ü-😀", "a@b.c", "a.b~c"])
def test_any_printable_sub_is_a_user(api, sub):
    assert api.request("GET", user=sub).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_token_that_is_not_genuine_is_401(api, method, path, body, name):
    headers = {"Authorization": f"Bearer {REFUSED[name]}".encode()}
    answer = api.request(method, path.format(id=1), headers=headers, json=body)
    assert (answer.status_code, answer.json()) == (401, {"detail": DETAILS[name]})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {token()}", token()])
def test_no_bearer_token_is_401(api, method, path, body, header):
    headers = {} if header is None else {"Authorization": header}
    answer = api.client.request(
        method, f"/api/ada/tasks{path.format(id=1)}", headers=headers, json=body
    )
    assert (answer.status_code, answer.json()) == (401, {"detail": NOT_SENT})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_elsewhere_than_in_the_header_is_not_looked_at(api):
    path = f"/api/ada/tasks?access_token={token()}"
    answer = api.client.get(path, headers={"Cookie": f"token={token()}"})
    assert (answer.status_code, answer.json()) == (401, {"detail": NOT_SENT})


@pytest.mark.parametrize(
    ("claims", "row"),
    [
        ({}, (None, None)),
        ({"email": "ada@example.com", "name": "Ada L"}, ("ada@example.com", "Ada L")),
        ({"email": "", "name": ""}, (None, None)),
        ({"email": "a\0b", "name": "Ada \0\ud800L"}, ("ab", "Ada L")),
        ({"email": 5, "name": ["x"]}, ("5", "['x']")),
        ({"email": "a" * 256, "name": "x" * 256}, ("a" * 255, "x" * 255)),
    ],
)
@pytest.mark.parametrize("later", [{}, {"email": "new@example.com", "name": "New"}])
def test_the_users_row_is_made_with_the_first_task_and_never_changed(
    api, database, database_url, user, claims, row, later
):
    def create_task(**claims):
        headers = {"Authorization": f"Bearer {token(user, **claims)}"}
        answer = api.request("POST", "", user, headers=headers, json={"title": "x"})
        assert answer.status_code == 201

    def rows():
        # xmin is the transaction that wrote a row last.
        statement = "SELECT email, name, created_at, xmin::text FROM users WHERE id = %s"
        return database.execute(statement, user, url=database_url)

    api.request("GET", "", user)
    assert rows() == []
    create_task(**claims)
    first = rows()
    assert [(email, name) for email, name, *_ in first] == [row]
    create_task(**later)
    assert rows() == first
