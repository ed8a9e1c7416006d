"""The keys' address is silent or trickles: who waits, how long, and that a stop does not wait."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Postgres, Service, service
from tests.keys import KeyServer

pytestmark = pytest.mark.system


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    with KeyServer() as server:
        yield server


@pytest.fixture
def api(database: Postgres, keys: KeyServer) -> Iterator[Service]:
    url = database.create_database()
    with service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=keys.url) as running:
        yield running


def answer(api: Service, text: str) -> tuple[int, float]:
    """Return the status of a request with this token, and the seconds that it took."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {text}"}
    return api.request("GET", headers=headers).status_code, time.monotonic() - began


@pytest.mark.parametrize("how", ["is_silent", "is_trickling"])
def test_strangers_wait_for_two_seconds_and_known_keys_for_nothing(
    api: Service, keys: KeyServer, how: str
) -> None:
    assert answer(api, keys.sign())[0] == 200
    time.sleep(10.1)  # After that, an unknown key lets the keys be read again.
    setattr(keys, how, True)
    with ThreadPoolExecutor(8) as threads:
        strangers = [threads.submit(answer, api, keys.sign(kid=f"{n}")) for n in range(8)]
        while len(keys.asked) < 2:
            time.sleep(0.01)
        known = [answer(api, keys.sign(jti=f"{n}")) for n in range(20)]
        assert not any(stranger.done() for stranger in strangers)
        assert {status for status, _ in known} == {200}
        assert max(seconds for _, seconds in known) < 1
        for stranger in strangers:
            status, seconds = stranger.result()
            assert status == 503
            assert seconds < 4
    assert len(keys.asked) == 2


@pytest.mark.parametrize("how", ["is_silent", "is_trickling"])
def test_a_stop_does_not_wait_for_the_keys(api: Service, keys: KeyServer, how: str) -> None:
    setattr(keys, how, True)
    assert answer(api, keys.sign())[0] == 503
    began = time.monotonic()
    api.process.terminate()
    api.process.wait(20)
    assert time.monotonic() - began < 3
