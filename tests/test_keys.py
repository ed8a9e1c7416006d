"""Tokens signed by Better Auth's jwt plugin, checked with the keys it publishes."""

import asyncio
import importlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.harness import SECRET, Postgres, Service, service, token
from tests.test_isolation import ROUTES

KEYS = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
    "PS256": rsa.generate_private_key(65537, 2048),
}


def published(kid: str, algorithm: str, key: object) -> dict[str, object]:
    """Return the JWK that Better Auth would publish for a private key."""
    return jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True) | {
        "kid": kid,
        "alg": algorithm,
    }


class KeyServer(ThreadingHTTPServer):
    """Stands where the frontend publishes its keys; `body` is what it answers, and an event holds it up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys = [published(algorithm, algorithm, key) for algorithm, key in KEYS.items()]
        self.status, self.body, self.fetches = 200, None, []
        self.free = threading.Event()
        self.free.set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.fetches.append(self.path)
        self.server.free.wait(20)
        body = (
            self.server.body
            if self.server.body is not None
            else json.dumps({"keys": self.server.keys}).encode()
        )
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.free.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def module(keys: KeyServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The service's module for tokens, in this process, with its keys at the key server's."""
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    monkeypatch.setenv("BETTER_AUTH_URL", keys.url)
    return importlib.reload(importlib.import_module("backend.auth.jwt"))


@pytest.fixture
def api(database: Postgres, keys: KeyServer) -> Iterator[Service]:
    with service(NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=keys.url) as running:
        yield running


def status(api: Service, text: str) -> int:
    answer = api.request("GET", headers={"Authorization": f"Bearer {text}"})
    assert isinstance(answer.json(), list) == (answer.status_code == 200)
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    return answer.status_code


def genuine(
    keys: KeyServer, algorithm: str = "EdDSA", key: object = None, kid: str = "", **claims: object
) -> str:
    claims = {"iss": keys.url, "aud": keys.url} | claims
    return token(key=key or KEYS[algorithm], algorithm=algorithm, kid=kid or algorithm, **claims)


def test_every_algorithm_of_the_plugin_is_accepted_and_the_keys_are_read_once(api, keys):
    assert [status(api, genuine(keys, algorithm)) for algorithm in KEYS] == [200] * 5
    assert keys.fetches == ["/api/auth/jwks"]


def test_only_what_a_published_key_signed_for_us_is_accepted(api, keys):
    private, secret = (
        ed25519.Ed25519PrivateKey.generate(),
        published("EdDSA", "EdDSA", KEYS["EdDSA"])["x"],
    )
    keys.keys.append({"kty": "oct", "kid": "oct", "alg": "HS256", "k": "c2VjcmV0" * 8})
    keys.keys.append({"kty": "RSA", "kid": "odd", "alg": ["RS256"]} | {"use": "enc"})
    keys.keys.pop()
    refused = {
        "another key": genuine(keys, key=private),
        "kid of another key": genuine(keys, kid="ES256"),
        "no kid": token(key=KEYS["EdDSA"], algorithm="EdDSA", iss=keys.url, aud=keys.url),
        "unknown kid": genuine(keys, kid="unknown"),
        "RS256 key used for PS256": genuine(keys, "PS256", key=KEYS["RS256"], kid="RS256"),
        "algorithm not of the plugin": genuine(keys, "RS512", key=KEYS["RS256"], kid="RS256"),
        "published secret": token(key=b"secret" * 8, kid="oct", iss=keys.url, aud=keys.url),
        "public key as secret": token(key=secret, kid="EdDSA", iss=keys.url, aud=keys.url),
        "no issuer": genuine(keys, iss=None),
        "no audience": genuine(keys, aud=None),
        "another issuer": genuine(keys, iss="http://evil.example"),
        "another audience": genuine(keys, aud="http://evil.example"),
        "no exp": genuine(keys, exp=None),
        "no sub": genuine(keys, sub=None),
        "expired": genuine(keys, seconds=-60),
    }
    assert status(api, genuine(keys)) == 200
    for method, path, body in ROUTES:
        for name, text in refused.items():
            headers = {"Authorization": f"Bearer {text}"}
            answer = api.request(method, path.format(id=1), headers=headers, json=body)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), name
    assert len(keys.fetches) == 1


def test_any_number_of_forged_kids_costs_one_fetch_in_ten_seconds(api, keys):
    assert [status(api, genuine(keys, kid=f"forged {number}")) for number in range(50)] == [
        401
    ] * 50
    assert len(keys.fetches) == 1


def test_keys_that_cannot_be_read_are_503_and_never_stop_the_shared_secret(api, keys):
    keys.status = 500
    assert [status(api, genuine(keys)) for _ in range(3)] == [503] * 3
    assert status(api, token()) == 200
    assert len(keys.fetches) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html>",
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": []}',
        b'{"keys": 5}',
        b'{"keys": [5]}',
        b'{"keys": [{"kty": "RSA", "alg": ["RS256"], "kid": "EdDSA"}]}',
        b'{"keys": [{"kty": "oct", "k": "AA", "alg": "none", "kid": "EdDSA"}]}',
        b"[" * 100000,
    ],
    ids=lambda body: repr(body)[:60],
)
def test_whatever_else_stands_there_means_that_the_keys_are_unavailable(keys, body, module):
    keys.body = body
    reader = module.PublishedKeys()
    with pytest.raises(ConnectionError):
        asyncio.run(reader.get("EdDSA"))
    assert reader.retry < time.monotonic() + 10  # it will be tried again


def test_a_key_that_cannot_be_used_does_not_spoil_the_others(keys, module):
    keys.keys = [{"kty": "OKP", "crv": "Ed448", "kid": "new"}, {"kid": 5}, 5, *keys.keys]
    assert asyncio.run(module.PublishedKeys().get("EdDSA")).key_id == "EdDSA"


def test_known_keys_outlive_an_outage_and_new_ones_are_found_after_it(keys, module):
    async def scenario() -> None:
        reader = module.PublishedKeys()
        assert (await reader.get("EdDSA")).key_id == "EdDSA"
        reader.stale = reader.retry = 0  # five minutes later
        keys.status = 500
        assert (await reader.get("EdDSA")).key_id == "EdDSA"
        with pytest.raises(ConnectionError):
            await reader.get("new")
        assert (await reader.get("EdDSA")).key_id == "EdDSA"
        keys.status, keys.keys = 200, [published("new", "ES256", KEYS["ES256"])]
        with pytest.raises(ConnectionError):  # not asked again so soon
            await reader.get("new")
        reader.retry = 0  # ten seconds later
        assert (await reader.get("new")).key_id == "new"
        with pytest.raises(jwt.InvalidTokenError):  # withdrawn
            await reader.get("EdDSA")
        assert len(keys.fetches) == 3

    asyncio.run(scenario())


def test_a_remembered_token_is_forgotten_when_its_key_is_withdrawn(keys, module):
    async def scenario() -> None:
        old, other = genuine(keys, sub="ada"), genuine(keys, "ES256", sub="bob")
        assert (await module.verify(old)).id == "ada"
        keys.keys = [published("ES256", "ES256", KEYS["ES256"])]
        assert (await module.verify(old)).id == "ada"  # until the keys are read again
        module.published.stale = module.published.retry = 0
        assert (await module.verify(other)).id == "bob"
        await module.published.reading
        with pytest.raises(jwt.InvalidTokenError):
            await module.verify(old)

    asyncio.run(scenario())


def test_a_hanging_endpoint_holds_up_only_those_whose_key_is_unknown(api, keys):
    keys.free.clear()
    waiting = threading.Thread(
        target=lambda: waited.append((status(api, genuine(keys)), time.monotonic()))
    )
    waited: list[tuple[int, float]] = []
    start = time.monotonic()
    waiting.start()
    while not keys.fetches:
        assert time.monotonic() < start + 3
    assert status(api, token()) == 200
    assert api.client.get("/health").status_code == 200
    assert not waited
    waiting.join()
    assert waited[0][0] == 503
    assert waited[0][1] - start < 5


@pytest.mark.parametrize(
    ("settings", "path", "issuer"),
    [
        ({"BETTER_AUTH_URL": "{url}/"}, "/api/auth/jwks", "{url}"),
        ({"BETTER_AUTH_URL": "{url}/auth/v2/"}, "/auth/v2/jwks", "{url}"),
        (
            {
                "BETTER_AUTH_URL": "HTTPS://App.Example.com:443",
                "BETTER_AUTH_JWKS_URL": "{url}/keys",
            },
            "/keys",
            "https://app.example.com",
        ),
        (
            {"BETTER_AUTH_URL": "{url}", "BETTER_AUTH_ISSUER": "me", "BETTER_AUTH_AUDIENCE": "me"},
            "/api/auth/jwks",
            "me",
        ),
    ],
)
def test_issuer_audience_and_address_follow_the_settings(keys, monkeypatch, settings, path, issuer):
    issuer = issuer.format(url=keys.url)
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    for name, value in settings.items():
        monkeypatch.setenv(name, value.format(url=keys.url))
    module = importlib.reload(importlib.import_module("backend.auth.jwt"))

    async def scenario() -> None:
        assert (await module.verify(genuine(keys, iss=issuer, aud=issuer))).id == "ada"
        for claims in ({"iss": issuer, "aud": "other"}, {"iss": "other", "aud": issuer}):
            with pytest.raises(jwt.InvalidTokenError):
                await module.verify(genuine(keys, **claims))

    asyncio.run(scenario())
    assert keys.fetches == [path]
