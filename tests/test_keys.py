"""Tokens signed by Better Auth's jwt plugin, checked with the keys it publishes."""

import asyncio
import base64
import importlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Self

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.harness import SECRET, Service, token
from tests.test_isolation import ROUTES

KEYS = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
    "PS256": rsa.generate_private_key(65537, 2048),
}
ALL_KIDS = set(KEYS)
FRESH = 300  # seconds for which the keys that were read count as all there are
OLD = 600  # seconds after which they are read again before a token is accepted
RETRY = 10  # seconds between two attempts to read them
LEEWAY = 30  # seconds by which clocks may differ


def published(kid: str, algorithm: str, key: object) -> dict[str, object]:
    """Return the JWK that Better Auth would publish for a private key."""
    public_key = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return public_key | {"kid": kid, "alg": algorithm}


RSA_KEY = published("odd", "RS256", KEYS["RS256"])
P256_KEY = published("odd", "ES256", KEYS["ES256"])
# A kid of "odd" lets a token name the key.
ODD_KEYS = {
    "alg none": RSA_KEY | {"alg": "none"},
    "alg a list": RSA_KEY | {"alg": ["RS256"]},
    "alg an object": RSA_KEY | {"alg": {"name": "RS256"}},
    "alg unknown": RSA_KEY | {"alg": "XS256"},
    "alg of another kind of key": RSA_KEY | {"alg": "EdDSA"},
    "alg not of the plugin": RSA_KEY | {"alg": "RS512"},
    "kid a list": RSA_KEY | {"kid": [1]},
    "kid an object": RSA_KEY | {"kid": {}},
    "kid a number": RSA_KEY | {"kid": 1},
    "kid null": RSA_KEY | {"kid": None},
    "use enc": RSA_KEY | {"use": "enc"},
    "use a list": RSA_KEY | {"use": ["sig"]},
    "oct with HS256": {"kty": "oct", "kid": "odd", "alg": "HS256", "k": "c2VjcmV0" * 8},
    "oct with EdDSA": {"kty": "oct", "kid": "odd", "alg": "EdDSA", "k": "c2VjcmV0" * 8},
    "a string": "odd",
    "a number": 5,
    "null": None,
    "a list": ["odd"],
    "an empty object": {},
    "no kty": {"kid": "odd", "alg": "RS256"},
    "kty a list": RSA_KEY | {"kty": ["RSA"]},
    "ES512 on P-256": P256_KEY | {"alg": "ES512"},
    "ES256 with coordinates that are no point": P256_KEY | {"x": P256_KEY["y"]},
    "ES256 with a short coordinate": P256_KEY | {"x": "AA"},
    "ES256 with a number for a coordinate": P256_KEY | {"x": 5},
    "ES256 without a coordinate": {"kty": "EC", "kid": "odd", "alg": "ES256", "crv": "P-256"},
    "unknown curve": {"kty": "OKP", "crv": "Ed448", "kid": "odd", "x": "AA"},
    "curve a list": P256_KEY | {"crv": ["P-256"]},
    "RSA with a huge exponent": RSA_KEY | {"e": "_" * 10000},
    "RSA with a huge modulus": RSA_KEY | {"n": "_" * 10000},
    "RSA with a modulus of zero": RSA_KEY | {"n": "AA"},
    "RSA of 512 bits": RSA_KEY | {"n": "_" * 85},
    "RSA with a private part that does not fit": RSA_KEY | {"d": "AQAB"},
    "RSA with a number for a modulus": RSA_KEY | {"n": 10**400},
    "not base64": RSA_KEY | {"n": "\x00é!"},
}
LEFT_OUT = object()
# Each goes over the header of a token that a published key has signed.
ODD_HEADERS = {
    "no kid": {"kid": LEFT_OUT},
    "no alg": {"alg": LEFT_OUT},
    "kid a list": {"kid": ["EdDSA"]},
    "kid an object": {"kid": {"EdDSA": 1}},
    "kid a number": {"kid": 1},
    "kid true": {"kid": True},
    "kid null": {"kid": None},
    "kid a lone surrogate": {"kid": "\ud800"},
    "kid of an odd key": {"kid": "odd"},
    "alg null": {"alg": None},
    "alg a list": {"alg": ["EdDSA"]},
    "alg an object": {"alg": {}},
    "alg none": {"alg": "none"},
    "alg in small letters": {"alg": "eddsa"},
    "crit unknown": {"crit": ["x"], "x": 1},
    "crit not a list": {"crit": "b64"},
    "crit empty": {"crit": []},
    "b64 false": {"b64": False},
    "b64 false and critical": {"b64": False, "crit": ["b64"]},
}


class KeyServer(ThreadingHTTPServer):
    """Stands where the frontend publishes its keys; `body` is what it answers instead of them."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys = [published(algorithm, algorithm, key) for algorithm, key in KEYS.items()]
        self.status = 200
        self.body: bytes | None = None
        self.fetches: list[str] = []  # the paths that were asked for
        self.asked = threading.Event()
        self.free = threading.Event()  # cleared, it holds up every answer
        self.free.set()
        self.is_trickling = False  # one byte of a header at a time, without end
        self.is_stopping = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.002,), daemon=True).start()

    def withdraw(self, kid: str) -> None:
        self.keys = [key for key in self.keys if key["kid"] != kid]

    def stop(self) -> None:
        self.free.set()
        self.is_stopping.set()
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.fetches.append(self.path)
        self.server.asked.set()
        self.server.free.wait(20)
        with suppress(ConnectionError):  # The reader may have gone.
            if self.server.is_trickling:
                self.trickle()
            else:
                self.send_keys()

    def send_keys(self) -> None:
        body = self.server.body
        if body is None:
            body = json.dumps({"keys": self.server.keys}).encode()
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(body)

    def trickle(self) -> None:
        self.send_response(200)
        self.flush_headers()
        while not self.server.is_stopping.wait(0.02):
            self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        pass


class Clock:
    """Stands for the module `time`, and stands still until a test moves it."""

    def __init__(self) -> None:
        self.moved = 0.0  # seconds
        self.started = time.time()

    def monotonic(self) -> float:
        return 1000 + self.moved

    def time(self) -> float:
        return self.started + self.moved


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.stop()


def reload_tokens() -> ModuleType:
    """Return the service's module for tokens, with the settings that are in the environment now."""
    return importlib.reload(importlib.import_module("backend.auth.jwt"))


@pytest.fixture
def module(keys: KeyServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The service's module for tokens, in this process, with its keys at the key server's."""
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    monkeypatch.setenv("BETTER_AUTH_URL", keys.url)
    return reload_tokens()


@pytest.fixture
def clock(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the module for tokens."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(scope="module")
def shared_keys(keys_port: int) -> Iterator[KeyServer]:
    """A key server with odd keys beside the good ones."""
    server = KeyServer(keys_port)
    for name, odd_key in ODD_KEYS.items():
        if isinstance(odd_key, dict) and odd_key.get("kid") == "odd":
            server.keys.append(odd_key | {"kid": name})
        else:
            server.keys.append(odd_key)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def api(starting_trusting: Service, shared_keys: KeyServer) -> Service:
    assert shared_keys.url  # It serves before the service asks it.
    return starting_trusting.wait_until_up()


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


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def with_header(keys: KeyServer, header: dict[str, object]) -> str:
    """Return a token that a published key has signed, with any header."""
    whole = {"alg": "EdDSA", "kid": "EdDSA", "typ": "JWT"} | header
    sent = {name: value for name, value in whole.items() if value is not LEFT_OUT}
    payload = genuine(keys).split(".")[1]
    text = f"{encoded(json.dumps(sent).encode())}.{payload}"
    return f"{text}.{encoded(KEYS['EdDSA'].sign(text.encode()))}"


def test_every_algorithm_of_the_plugin_is_accepted_and_the_keys_are_read_once(api, shared_keys):
    # No other test has asked this service yet.
    assert [status(api, genuine(shared_keys, algorithm)) for algorithm in KEYS] == [200] * 5
    assert shared_keys.fetches == ["/api/auth/jwks"]


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_only_what_a_published_key_signed_for_us_is_accepted(api, shared_keys, method, path, body):
    url = shared_keys.url
    another_key = ed25519.Ed25519PrivateKey.generate()
    public_part = published("EdDSA", "EdDSA", KEYS["EdDSA"])["x"]
    refused = {
        "another key": genuine(shared_keys, key=another_key),
        "kid of another key": genuine(shared_keys, kid="ES256"),
        "no kid": token(key=KEYS["EdDSA"], algorithm="EdDSA", iss=url, aud=url),
        "unknown kid": genuine(shared_keys, kid="unknown"),
        "RS256 key used for PS256": genuine(shared_keys, "PS256", key=KEYS["RS256"], kid="RS256"),
        "PS256 key used for RS256": genuine(shared_keys, "RS256", key=KEYS["PS256"], kid="PS256"),
        "algorithm not of the plugin": genuine(
            shared_keys, "RS512", key=KEYS["RS256"], kid="RS256"
        ),
        "published secret": token(key=b"secret" * 8, kid="odd", iss=url, aud=url),
        "public key as secret": token(key=public_part, kid="EdDSA", iss=url, aud=url),
        "the very secret with HS384": token(algorithm="HS384", key=SECRET),
        "the very secret with HS512": token(algorithm="HS512", key=SECRET),
        "no issuer": genuine(shared_keys, iss=None),
        "no audience": genuine(shared_keys, aud=None),
        "another issuer": genuine(shared_keys, iss="http://evil.example"),
        "another audience": genuine(shared_keys, aud="http://evil.example"),
        "no exp": genuine(shared_keys, exp=None),
        "no sub": genuine(shared_keys, sub=None),
        "expired": genuine(shared_keys, seconds=-60),
    }
    assert status(api, genuine(shared_keys)) == 200
    assert status(api, token(key=SECRET)) == 200
    for name, text in refused.items():
        headers = {"Authorization": f"Bearer {text}"}
        answer = api.request(method, path.format(id=1), headers=headers, json=body)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), name


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_an_odd_header_is_401(api, shared_keys, header):
    assert status(api, with_header(shared_keys, {})) == 200
    assert status(api, with_header(shared_keys, header)) == 401


def test_a_token_that_names_an_odd_key_is_401(api, shared_keys):
    for name in ODD_KEYS:
        for algorithm in ("RS256", "ES512"):
            assert status(api, genuine(shared_keys, algorithm, kid=name)) == 401, name


@pytest.mark.parametrize("odd_key", ODD_KEYS.values(), ids=ODD_KEYS)
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_an_odd_key_costs_the_others_nothing_and_makes_no_token_genuine(keys, module, odd_key):
    keys.keys = [odd_key, *keys.keys, odd_key]

    async def scenario() -> None:
        for algorithm in KEYS:
            assert (await module.verify(genuine(keys, algorithm))).id == "ada"
            with pytest.raises(jwt.PyJWTError):
                await module.verify(genuine(keys, algorithm, kid="odd"))
        with pytest.raises(jwt.PyJWTError):
            await module.verify(token(key=b"secret" * 8, kid="odd", iss=keys.url, aud=keys.url))

    asyncio.run(scenario())
    assert {key.algorithm_name for key in module.published_keys.keys.values()} == set(KEYS)
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
        b'{"keys": null}',
        b'{"keys": {"kty": "RSA"}}',
        b'{"keys": "EdDSA"}',
        b'{"keys": 5}',
        b'{"keys": [5]}',
        b'{"keys": [{"kty": "RSA", "alg": ["RS256"], "kid": "EdDSA"}]}',
        b'{"keys": [{"kty": "oct", "k": "AA", "alg": "none", "kid": "EdDSA"}]}',
        b"[" * 100000,
        b'{"keys": ' + b"9" * 10000 + b"}",
    ],
    ids=lambda body: repr(body)[:60],
)
def test_whatever_else_stands_there_means_that_the_keys_are_unavailable(keys, module, clock, body):
    keys.body = body

    async def scenario() -> None:
        with pytest.raises(module.UnavailableError):
            await module.published_keys.get("EdDSA")
        keys.body = None
        clock.moved += RETRY
        assert (await module.published_keys.get("EdDSA")).key_id == "EdDSA"

    asyncio.run(scenario())


def test_keys_that_cannot_be_read_never_stop_the_shared_secret(keys, module):
    keys.status = 500

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(module.UnavailableError):
                await module.verify(genuine(keys))
        assert (await module.verify(token())).id == "ada"

    asyncio.run(scenario())
    assert len(keys.fetches) == 1


def test_any_number_of_forged_kids_costs_one_fetch_in_ten_seconds(keys, module, clock):
    async def forge(first: int) -> None:
        tokens = [genuine(keys, kid=f"forged {first + number}") for number in range(50)]
        found = await asyncio.gather(*map(module.verify, tokens), return_exceptions=True)
        assert {type(error) for error in found} == {jwt.InvalidSignatureError}

    async def scenario() -> None:
        await forge(0)
        assert len(keys.fetches) == 1
        clock.moved += RETRY - 0.1
        await forge(50)
        assert len(keys.fetches) == 1
        clock.moved += 0.2
        await forge(100)
        assert len(keys.fetches) == 2

    asyncio.run(scenario())


def test_keys_are_read_again_after_five_minutes_and_not_before(keys, module, clock):
    async def scenario() -> None:
        await module.published_keys.get("EdDSA")
        clock.moved += FRESH - 1
        await module.published_keys.get("EdDSA")
        assert len(keys.fetches) == 1
        clock.moved += 2
        await module.published_keys.get("EdDSA")  # which does not wait for the answer
        await module.published_keys.attempt
        assert len(keys.fetches) == 2
        assert set(module.published_keys.keys) == ALL_KIDS

    asyncio.run(scenario())


def test_known_keys_outlive_an_outage_and_new_ones_are_found_after_it(keys, module, clock):
    reader = module.published_keys

    async def scenario() -> None:
        await reader.get("EdDSA")
        keys.status = 500
        clock.moved += FRESH + 1
        for _ in range(100):  # the outage lasts a quarter of an hour, in which somebody asks
            clock.moved += RETRY
            assert (await reader.get("EdDSA")).key_id == "EdDSA"
            await reader.attempt
        assert len(keys.fetches) == 101
        with pytest.raises(module.UnavailableError):
            await reader.get("new")
        keys.status = 200
        keys.keys = [published("new", "ES256", KEYS["ES256"])]
        with pytest.raises(module.UnavailableError):  # not asked again so soon
            await reader.get("new")
        clock.moved += RETRY
        assert (await reader.get("new")).key_id == "new"
        with pytest.raises(jwt.InvalidTokenError):  # withdrawn
            await reader.get("EdDSA")
        assert len(keys.fetches) == 102

    asyncio.run(scenario())


def test_known_keys_outlive_an_outage_that_begins_in_a_quiet_night(keys, module, clock):
    async def scenario() -> None:
        await module.verify(genuine(keys))
        keys.status = 500
        clock.moved += 8 * 3600
        assert (await module.verify(genuine(keys, sub="eve"))).id == "eve"
        assert len(keys.fetches) == 2

    asyncio.run(scenario())


def test_a_withdrawn_key_is_good_for_no_token_after_a_quiet_night(keys, module, clock):
    async def scenario() -> None:
        remembered = genuine(keys)
        await module.verify(remembered)
        keys.withdraw("EdDSA")
        clock.moved += OLD + 1
        tokens = [remembered, *(genuine(keys, sub=f"user {number}") for number in range(10))]
        found = await asyncio.gather(*map(module.verify, tokens), return_exceptions=True)
        assert {type(error) for error in found} == {jwt.InvalidSignatureError}
        assert len(keys.fetches) == 2

    asyncio.run(scenario())


def test_a_remembered_token_is_forgotten_when_its_key_is_withdrawn(keys, module, clock):
    async def scenario() -> None:
        withdrawn = genuine(keys, sub="ada")
        other = genuine(keys, "ES256", sub="bob")
        assert (await module.verify(withdrawn)).id == "ada"
        keys.withdraw("EdDSA")
        assert (await module.verify(withdrawn)).id == "ada"  # until the keys are read again
        clock.moved += FRESH + 1
        assert (await module.verify(other)).id == "bob"
        await module.published_keys.attempt
        with pytest.raises(jwt.InvalidSignatureError):
            await module.verify(withdrawn)

    asyncio.run(scenario())


def test_no_token_is_remembered_by_keys_that_are_replaced_while_it_is_verified(
    keys, module, clock, monkeypatch
):
    decode = jwt.decode

    def decode_slowly(*arguments: object, **options: object) -> object:
        claims = decode(*arguments, **options)
        keys.free.set()
        time.sleep(0.1)  # The thread gets the new keys, but this holds up the event loop.
        return claims

    async def scenario() -> None:
        withdrawn = genuine(keys)
        await module.published_keys.get("EdDSA")
        keys.withdraw("EdDSA")
        keys.free.clear()
        keys.asked.clear()
        clock.moved += RETRY
        waiting = asyncio.create_task(module.published_keys.get("unknown"))
        assert await asyncio.to_thread(keys.asked.wait, 5)
        with monkeypatch.context() as patch:
            patch.setattr(jwt, "decode", decode_slowly)
            assert (await module.verify(withdrawn)).id == "ada"
        with pytest.raises(jwt.InvalidSignatureError):
            await waiting
        with pytest.raises(jwt.InvalidSignatureError):
            await module.verify(withdrawn)

    asyncio.run(scenario())


@pytest.mark.parametrize("is_changed", [False, True])
def test_an_unknown_kid_empties_the_memory_only_if_the_keys_have_changed(
    keys, module, clock, is_changed
):
    async def scenario() -> None:
        await module.verify(genuine(keys))
        await module.verify(token())
        known = dict(module.remembered)
        assert len(known) == 2
        clock.moved += RETRY
        if is_changed:
            keys.withdraw("PS256")
        with pytest.raises(jwt.InvalidSignatureError):
            await module.verify(genuine(keys, kid="forged"))
        assert len(keys.fetches) == 2
        assert module.remembered == ({} if is_changed else known)

    asyncio.run(scenario())


def test_the_memory_of_tokens_is_bounded(module, monkeypatch):
    assert module.MAX_REMEMBERED_TOKENS * module.MAX_TOKEN_LENGTH <= 16 * 2**20
    monkeypatch.setattr(module, "MAX_REMEMBERED_TOKENS", 5)

    async def scenario() -> None:
        for number in range(23):
            await module.verify(token(f"user {number}"))
            assert 1 <= len(module.remembered) <= 5

    asyncio.run(scenario())


def test_a_remembered_token_still_expires(module, clock, monkeypatch):
    class MovedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(clock.time(), tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", MovedDatetime)

    async def scenario() -> None:
        text = token(seconds=60)
        assert (await module.verify(text)).id == "ada"
        clock.moved += 60 + LEEWAY - 2
        assert (await module.verify(text)).id == "ada"
        assert text in module.remembered
        clock.moved += 3
        with pytest.raises(jwt.ExpiredSignatureError):
            await module.verify(text)

    asyncio.run(scenario())


def test_a_token_that_is_refused_is_not_remembered(keys, module):
    async def scenario() -> None:
        for refused in (genuine(keys, seconds=-60), genuine(keys, kid="forged"), token(sub="")):
            with pytest.raises(jwt.PyJWTError):
                await module.verify(refused)
        assert module.remembered == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("is_trickling", [False, True], ids=["silent", "trickling"])
def test_an_endpoint_that_hangs_holds_up_only_those_whose_key_is_unknown(
    keys, module, clock, monkeypatch, is_trickling
):
    monkeypatch.setattr(module, "KEYS_TIMEOUT", 0.1)
    reader = module.PublishedKeys(module.KEYS_URL)

    async def seconds_until_unavailable(kid: str) -> float:
        began = time.monotonic()
        with pytest.raises(module.UnavailableError):
            await reader.get(kid)
        return time.monotonic() - began

    async def scenario() -> None:
        await reader.get("EdDSA")
        keys.is_trickling = is_trickling
        if not is_trickling:
            keys.free.clear()
        clock.moved += FRESH + 1
        for _ in range(2):
            clock.moved += RETRY
            waiting = asyncio.create_task(seconds_until_unavailable("new"))
            await asyncio.sleep(0)
            for _ in range(100):
                assert (await reader.get("EdDSA")).key_id == "EdDSA"
            assert not waiting.done()
            assert 0.05 < await waiting < 1
        assert len(keys.fetches) == 3  # each attempt has ended before the next

    async def bounded_scenario() -> None:
        try:
            await asyncio.wait_for(scenario(), 10)
        finally:
            keys.is_stopping.set()
            keys.free.set()

    asyncio.run(bounded_scenario())


def test_answers_that_trickle_without_end_keep_no_thread_that_others_need(
    keys, module, clock, monkeypatch
):
    monkeypatch.setattr(module, "KEYS_TIMEOUT", 0.05)
    reader = module.PublishedKeys(module.KEYS_URL)
    keys.is_trickling = True

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
        for _ in range(6):
            clock.moved += RETRY
            with pytest.raises(module.UnavailableError):
                await reader.get("EdDSA")
        try:
            await asyncio.wait_for(asyncio.to_thread(int), 5)
        finally:
            keys.is_stopping.set()
        assert len(keys.fetches) == 4  # as many threads as there are for it

    asyncio.run(scenario())


def test_a_hanging_endpoint_holds_up_known_keys_once_after_a_quiet_night(
    keys, module, clock, monkeypatch
):
    monkeypatch.setattr(module, "KEYS_TIMEOUT", 0.1)
    reader = module.PublishedKeys(module.KEYS_URL)

    async def scenario() -> None:
        await reader.get("EdDSA")
        keys.free.clear()
        clock.moved += 8 * 3600
        for least, most in ((0.05, 1), (0, 0.1), (0, 0.1)):
            began = time.monotonic()
            assert (await reader.get("EdDSA")).key_id == "EdDSA"
            assert least < time.monotonic() - began < most
            clock.moved += RETRY
        keys.free.set()

    asyncio.run(scenario())


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
    module = reload_tokens()

    async def scenario() -> None:
        assert (await module.verify(genuine(keys, iss=issuer, aud=issuer))).id == "ada"
        for claims in ({"iss": issuer, "aud": "other"}, {"iss": "other", "aud": issuer}):
            with pytest.raises(jwt.InvalidTokenError):
                await module.verify(genuine(keys, **claims))

    asyncio.run(scenario())
    assert keys.fetches == [path]
