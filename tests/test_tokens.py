"""Which tokens are genuine: each refusal holds for all six routes, and costs the database nothing."""

import base64
import json
import time

import jwt
import pytest

from tests.harness import FRONTEND, SECRET, token
from tests.test_isolation import ROUTES

HEADER, PAYLOAD, SIGNATURE = token("ada").split(".")


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(payload: object, **header: object) -> str:
    """Return any payload, signed with the secret as HS256 is."""
    signer = jwt.get_algorithm_by_name("HS256")
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'} | header)}.{part(payload)}"
    return f"{text}.{base64.urlsafe_b64encode(signer.sign(text.encode(), SECRET.encode())).rstrip(b'=').decode()}"


GENUINE = {
    "bare": token(),
    "with issuer and audience": token(iss=FRONTEND, aud=FRONTEND),
    "with a list of audiences": token(aud=["https://else.example", FRONTEND]),
    "with claims of other kinds": token(id="eve", email=5, name=["x"], role="admin", jti="x"),
    "with a kid, which the secret has not": token(kid="any"),
}
EXPIRED = {"expired": token(seconds=-60), "expired long ago": token(exp=1)}
REFUSED = {
    "not a token": "x",
    "empty parts": "..",
    "two parts": f"{HEADER}.{PAYLOAD}",
    "four parts": f"{token()}.x",
    "unsigned": f"{part({'alg': 'none', 'typ': 'JWT'})}.{PAYLOAD}.",
    "signature left out": f"{HEADER}.{PAYLOAD}.",
    "signature of another token": f"{HEADER}.{PAYLOAD}.{token('eve').split('.')[2]}",
    "payload of another token": f"{HEADER}.{part({'sub': 'ada', 'exp': 2**40})}.{SIGNATURE}",
    "another secret": token(key=SECRET + "x"),
    "the empty secret": token(key=b"\0" * 32),
    "HS384": token(algorithm="HS384", key=SECRET * 2),
    "HS512": token(algorithm="HS512", key=SECRET * 2),
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
    "deeply nested": f"{part({'alg': 'HS256'})}.{base64.urlsafe_b64encode(b'[' * 6000).decode().rstrip('=')}.x",
    "not ASCII": "\xe9.\xe9.\xe9",
}


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
@pytest.mark.parametrize(
    ("text", "detail"),
    [(text, "The token is invalid.") for text in REFUSED.values()]
    + [(text, "The token has expired.") for text in EXPIRED.values()],
    ids=[*REFUSED, *EXPIRED],
)
def test_a_token_that_is_not_genuine_is_401(api, method, path, body, text, detail):
    headers = {"Authorization": f"Bearer {text}".encode()}
    answer = api.client.request(
        method, f"/api/ada/tasks{path.format(id=1)}", headers=headers, json=body
    )
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {token()}", token()])
def test_no_bearer_token_is_401(api, method, path, body, header):
    headers = {} if header is None else {"Authorization": header}
    answer = api.client.request(
        method, f"/api/ada/tasks{path.format(id=1)}", headers=headers, json=body
    )
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_elsewhere_than_in_the_header_is_not_looked_at(api):
    answer = api.client.get(
        f"/api/ada/tasks?access_token={token()}", headers={"Cookie": f"token={token()}"}
    )
    assert answer.status_code == 401


def test_a_remembered_token_still_expires(api):
    while (
        time.time() % 1 > 0.3
    ):  # so that the token, which ends with a second, has most of one left
        time.sleep(0.01)
    headers = {"Authorization": f"Bearer {token(seconds=-29)}"}
    assert api.request("GET", headers=headers).status_code == 200
    deadline = time.monotonic() + 5
    while api.request("GET", headers=headers).status_code == 200:
        assert time.monotonic() < deadline
    assert api.request("GET", headers=headers).json() == {"detail": "The token has expired."}


def test_the_users_row_is_what_the_token_says_and_is_never_erased(api, database, user):
    url = f"postgresql://{api.database.partition('://')[2]}"

    def create(**claims):
        headers = {"Authorization": f"Bearer {token(user, **claims)}"}
        assert (
            api.request("POST", "", user, headers=headers, json={"title": "x"}).status_code == 201
        )
        return database.execute("SELECT email, name FROM users WHERE id = %s", user, url=url)

    assert create() == [(None, None)]
    assert create(email="ada@example.com", name="Ada \0\ud800L") == [("ada@example.com", "Ada L")]
    assert create() == [("ada@example.com", "Ada L")]
    assert create(email="new@example.com") == [("new@example.com", "Ada L")]
