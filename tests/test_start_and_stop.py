"""The command that prints a token gives a good one, and the service stops without loss."""

import runpy
import signal
import sys
import threading
import time

import jwt
import pytest

from tests.harness import ROOT, SECRET
from tests.test_database import sessions, wait_until


@pytest.mark.parametrize(("options", "seconds"), [([], 3600), (["--seconds", "60"], 60)])
def test_the_printed_token_is_valid_for_as_long_as_asked(
    api, monkeypatch, capsys, options, seconds
):
    monkeypatch.setattr(sys, "argv", ["jwt.py", "ada", *options])
    runpy.run_path(str(ROOT / "backend" / "auth" / "jwt.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    headers = {"Authorization": f"Bearer {printed.strip()}"}
    assert api.request("GET", headers=headers).status_code == 200
    expires = jwt.decode(printed.strip(), SECRET, ["HS256"])["exp"]
    assert abs(expires - time.time() - seconds) < 15


def test_sigterm_finishes_what_is_in_flight_and_closes_every_connection(
    starting_to_be_stopped, slow_proxy, database, user
):
    api = starting_to_be_stopped.wait_until_up()
    answers = []

    def create():
        answers.append(api.request("POST", "", user, json={"title": "x"}))

    api.request("GET", "", user)  # which connects
    request = threading.Thread(target=create)
    before = slow_proxy.round_trips
    slow_proxy.delay = 0.2
    request.start()
    while slow_proxy.round_trips == before:
        assert request.is_alive()
        time.sleep(0.001)
    api.process.send_signal(signal.SIGTERM)
    request.join()
    api.process.wait(10)
    assert [answer.status_code for answer in answers] == [201]
    count = "SELECT count(*) FROM tasks WHERE user_id = %s"
    url = database.database(api.database.rpartition("/")[2])
    assert database.execute(count, user, url=url) == [(1,)]
    wait_until(lambda: sessions(database, url) == (0, 0))
