"""The command that prints a token gives a good one, and the service stops without loss."""

import signal
import subprocess
import sys
import threading
import time

import jwt
import pytest

from tests import harness
from tests.harness import ROOT, Proxy, Service


@pytest.mark.parametrize(("option", "seconds"), [((), 3600), (("--seconds", "60"), 60)])
def test_the_printed_token_is_valid_for_as_long_as_asked(api, option, seconds):
    environment = harness.environment_of_service()
    command = [sys.executable, "-m", "backend.auth.jwt", "ada", *option]
    text = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True, text=True, env=environment
    ).stdout.strip()
    assert api.request("GET", headers={"Authorization": f"Bearer {text}"}).status_code == 200
    assert abs(jwt.decode(text, harness.SECRET, ["HS256"])["exp"] - time.time() - seconds) < 15


def test_sigterm_finishes_what_is_in_flight_and_closes_every_connection(database, user):
    url = database.create_database()
    with Proxy(database.port) as proxy:
        api = Service(
            NEON_DATABASE_URL=url.replace(str(database.port), str(proxy.port))
        ).wait_until_up()
        answers = []
        request = threading.Thread(
            target=lambda: answers.append(api.request("POST", "", user, json={"title": "x"}))
        )
        before, proxy.delay = proxy.round_trips, 0.5
        request.start()
        while proxy.round_trips == before:
            time.sleep(0.001)
        api.process.send_signal(signal.SIGTERM)
        request.join()
        api.process.wait(10)
        api.stop()
    assert [answer.status_code for answer in answers] == [201]
    assert database.execute("SELECT count(*) FROM tasks WHERE user_id = %s", user, url=url) == [
        (1,)
    ]
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    assert database.execute(open_ones, url.rpartition("/")[2]) == [(0,)]
