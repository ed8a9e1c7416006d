"""Tokens that Better Auth's jwt plugin signs, and the keys that it publishes for them.

Most tests ask the module in this process, because they move its clock.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from functools import partial

import httpx
import jwt as pyjwt
import pytest

from backend import UnavailableError
from backend.auth import jwt
from tests.harness import FRONTEND, token
from tests.keys import KEYS, RSA_KEY, KeyServer, published

FRESH = 300  # seconds after which the keys are read again
RETRY = 10  # the same, for a key that is unknown


class Clock:
    """Stands for the module `time`, and stands still until a test moves it."""

    def __init__(self) -> None:
        self.moved = 0.0  # seconds
        self.began = time.time()

    def monotonic(self) -> float:
        return 1000 + self.moved

    def time(self) -> float:
        return self.began + self.moved


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(jwt, "time", clock)
    return clock


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyServer]:
    """A frontend that the service in this process trusts, and whose keys it has not read."""
    with KeyServer() as server:
        monkeypatch.setattr(jwt, "KEYS_URL", f"{server.url}/api/auth/jwks")
        monkeypatch.setattr(jwt, "ISSUERS", [server.url])
        monkeypatch.setattr(jwt, "AUDIENCES", [server.url])
        # No certificates are loaded, which takes 30 ms: no key is read by https here.
        monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, verify=False))
        monkeypatch.setattr(jwt, "published_keys", jwt.PublishedKeys())
        monkeypatch.setattr(jwt, "remembered", {})
        yield server


async def outcome(text: str) -> object:
    """Return whose token it is, or the class of the error."""
    try:
        return (await jwt.verify(text)).id
    except (pyjwt.PyJWTError, UnavailableError) as error:
        return type(error)


def test_each_algorithm_of_the_plugin_is_accepted(remote, frontend_keys):
    for algorithm in [*KEYS, *KEYS]:
        answer = remote.request("GET", bearer=frontend_keys.sign("ada", algorithm))
        assert answer.status_code == 200, algorithm
    for asked in frontend_keys.asked:
        assert (asked["path"], asked["User-Agent"]) == ("/api/auth/jwks", "todo-backend")


HOSTILE = {
    "another key's kid": {"kid": "ES256"},
    "no kid": {"kid": None},
    "an unknown kid": {"kid": "new"},
    "PS256 for a key of RS256": {"algorithm": "PS256", "kid": "RS256"},
    "an algorithm that is not the plugin's": {"algorithm": "RS512", "key": RSA_KEY, "kid": "RS256"},
    "the public key as a secret": {"algorithm": "HS256", "key": published("RS256")["n"]},
    "another secret, and the kid of a key": {"algorithm": "HS256", "key": "x" * 32, "kid": "EdDSA"},
    "no issuer": {"iss": None},
    "no audience": {"aud": None},
    "another issuer": {"iss": "x"},
    "another audience": {"aud": "x"},
    "no exp": {"exp": None},
    "no sub": {"sub": None},
    "expired": {"seconds": -60},
}


@pytest.mark.parametrize("how", HOSTILE.values(), ids=HOSTILE)
def test_a_token_that_the_plugin_did_not_make_is_401(remote, frontend_keys, how):
    assert remote.request("GET", bearer=frontend_keys.sign(**how)).status_code == 401


@pytest.mark.parametrize(
    ("issuer", "audience", "status"),
    [("My App", "you", 200), (FRONTEND, "you", 401), ("My App", FRONTEND, 401), ("My", "you", 401)],
)
@pytest.mark.parametrize("kind", ["plugin", "secret"])
def test_settings_may_name_another_issuer_and_audience(
    remote, frontend_keys, kind, issuer, audience, status
):
    claims = {"iss": issuer, "aud": audience}
    text = frontend_keys.sign(**claims) if kind == "plugin" else token(**claims)
    assert remote.request("GET", bearer=text).status_code == status


def test_while_the_keys_are_away_it_is_503_and_the_secret_still_counts(api, frontend_keys):
    answer = api.request("GET", bearer=frontend_keys.sign(), headers={"Origin": FRONTEND})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json() == {"detail": "The database or the sign-in keys are unavailable."}
    assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
    assert "signing keys unavailable at http://127.0.0.1:1/keys: ConnectError" in api.output()
    assert api.request("GET").status_code == 200


WRONG = {
    "403": ({"status": 403}, "403 Forbidden"),
    "a redirect": (
        {"status": 308, "headers": {"Location": "https://x.example/"}},
        "308 Permanent Redirect",
    ),
    "HTML": ({"body": b"<html></html>"}, "JSONDecodeError"),
    "not UTF-8": ({"body": b"\xff\xfe\xff"}, "Error"),
    "a list": ({"body": b"[]"}, "AttributeError"),
    "no keys": ({"body": b'{"keys": []}'}, "did not contain any keys"),
    "an empty key": ({"keys": [{}]}, "did not contain any usable keys"),
    "alg a list": ({"keys": [published("RS256", alg=["RS256"])]}, "Error"),
    "kid a list": ({"keys": [published("EdDSA", kid=["EdDSA"])]}, "TypeError"),
    "deeply nested": ({"body": b"[" * 100_000}, "RecursionError"),
}


@pytest.mark.parametrize(("answer", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_no_list_of_keys_is_503_and_one_line_that_says_why(keys, caplog, answer, reason):
    for name, value in answer.items():
        setattr(keys, name, value)

    async def scenario() -> None:
        assert await outcome(keys.sign()) is UnavailableError
        assert await outcome(keys.sign()) is UnavailableError
        assert await outcome(token("ada")) == "ada"

    with caplog.at_level(logging.WARNING, "backend.auth.jwt"):
        asyncio.run(scenario())
    (line,) = caplog.messages
    assert line.startswith(f"signing keys unavailable at {keys.url}/api/auth/jwks: ")
    assert reason in line
    assert "\n" not in line


def test_a_key_that_pyjwt_cannot_use_costs_the_others_nothing(keys):
    keys.keys.append({"kty": "OKP", "crv": "X25519", "kid": "other", "x": "AA"})
    keys.keys.append(published("RS256", kid="other", alg="XS256"))
    assert asyncio.run(outcome(keys.sign())) == "ada"


def test_of_many_requests_at_once_one_reads_the_keys(keys):
    async def scenario() -> list[object]:
        return await asyncio.gather(*(outcome(keys.sign(f"user {n}")) for n in range(30)))

    assert asyncio.run(scenario()) == [f"user {n}" for n in range(30)]
    assert len(keys.asked) == 1


def test_unknown_kids_cost_one_reading_in_ten_seconds_which_finds_a_new_key(keys, clock):
    async def scenario() -> None:
        for readings, seconds in ((1, 0), (1, RETRY - 1), (2, 2), (2, RETRY - 1), (3, 2)):
            clock.moved += seconds
            for number in range(20):
                assert await outcome(keys.sign(kid=f"{number}")) is pyjwt.InvalidKeyError
            assert len(keys.asked) == readings
        keys.keys.append(published("ES256", kid="new"))
        clock.moved += RETRY + 1
        assert await outcome(keys.sign("bob", "ES256", kid="new")) == "bob"

    asyncio.run(scenario())


def test_a_withdrawn_key_is_good_for_five_minutes_and_one_request(keys, clock):
    async def scenario() -> None:
        assert await outcome(keys.sign()) == "ada"
        keys.keys = [published("ES256")]
        clock.moved += FRESH - 1
        assert await outcome(keys.sign("bob")) == "bob"
        await jwt.published_keys.reading
        assert len(keys.asked) == 1
        clock.moved += 2
        assert await outcome(keys.sign("cleo")) == "cleo"  # which waits for no reading
        await jwt.published_keys.reading
        assert len(keys.asked) == 2
        assert await outcome(keys.sign("dora")) is pyjwt.InvalidKeyError

    asyncio.run(scenario())


def test_known_keys_outlive_an_outage_and_unknown_ones_are_503(keys, clock):
    async def scenario() -> None:
        assert await outcome(keys.sign()) == "ada"
        keys.status = 503
        for number in range(20):
            clock.moved += FRESH + 1
            assert await outcome(keys.sign(f"user {number}", exp=2**40)) == f"user {number}"
            await jwt.published_keys.reading
        assert len(keys.asked) == 21
        clock.moved += RETRY + 1
        for _ in range(2):
            assert await outcome(keys.sign(kid="new")) is UnavailableError
        assert len(keys.asked) == 22
        keys.status = 200
        clock.moved += RETRY + 1
        assert await outcome(keys.sign(kid="new")) is pyjwt.InvalidKeyError

    asyncio.run(scenario())


def test_strangers_hold_up_nobody_whose_key_is_known_while_the_keys_are_read(keys, clock):
    """Eight strangers at a time, with key ids that nobody has published."""

    async def scenario() -> None:
        assert await outcome(keys.sign()) == "ada"
        keys.is_silent = True
        clock.moved += FRESH + 1
        strangers = [asyncio.create_task(outcome(keys.sign(kid=f"{n}"))) for n in range(8)]
        for number in range(50):
            assert await outcome(keys.sign(f"user {number}", exp=2**40)) == f"user {number}"
        assert not any(stranger.done() for stranger in strangers)
        keys.is_silent = False
        assert set(await asyncio.gather(*strangers)) == {pyjwt.InvalidKeyError}
        assert len(keys.asked) == 2

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_does_not_end_the_reading_for_others(keys):
    async def scenario() -> None:
        first = asyncio.create_task(outcome(keys.sign()))
        second = asyncio.create_task(outcome(keys.sign("bob")))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "bob"
        assert len(keys.asked) == 1

    asyncio.run(scenario())


def test_a_genuine_token_is_remembered_for_a_minute_and_no_longer(keys, clock):
    async def scenario() -> None:
        text = keys.sign()
        assert await outcome(text) == "ada"
        jwt.published_keys.keys = {}  # Whoever looked for the key now would not find it.
        clock.moved += 59
        assert await outcome(text) == "ada"
        keys.keys = [published("ES256")]
        clock.moved += 2
        assert await outcome(text) is pyjwt.InvalidKeyError

    asyncio.run(scenario())


def test_a_remembered_token_is_forgotten_when_it_expires(clock):
    async def scenario() -> None:
        text = token("ada", seconds=10)
        assert await outcome(text) == "ada"
        assert jwt.remembered[text][1] == pytest.approx(clock.monotonic() + 10 + 30, abs=2)

    asyncio.run(scenario())


def test_a_refused_token_is_not_remembered_and_the_memory_is_bounded(keys):
    async def scenario() -> None:
        for refused in (keys.sign(seconds=-60), keys.sign(kid="forged"), token(sub="")):
            await outcome(refused)
        assert jwt.remembered == {}
        await outcome(token("ada"))
        (remembered,) = jwt.remembered.values()
        jwt.remembered.update((f"{number}", remembered) for number in range(2047))
        assert len(jwt.remembered) == 2048
        await outcome(token("bob"))
        assert len(jwt.remembered) <= 2048

    asyncio.run(scenario())
