"""A token ends by the clock of the machine, although the service remembers it."""

import time

import pytest

from backend.dependencies import EXPIRED
from tests.harness import token

pytestmark = pytest.mark.system


def test_a_remembered_token_still_expires(api):
    # A token ends with a second. Most of one is left to it.
    while time.time() % 1 > 0.3:
        time.sleep(0.01)
    headers = {"Authorization": f"Bearer {token(seconds=-29)}"}
    assert api.request("GET", headers=headers).status_code == 200
    deadline = time.monotonic() + 5
    while api.request("GET", headers=headers).status_code == 200:
        assert time.monotonic() < deadline
    assert api.request("GET", headers=headers).json() == {"detail": EXPIRED}
