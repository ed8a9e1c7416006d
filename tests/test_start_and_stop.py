"""The command that prints a token gives a good one, and the service stops without loss."""

import runpy
import signal
import sys
import threading
import time

import jwt
import pytest

from tests.harness import ROOT, SECRET, Proxy, service


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


def test_sigterm_finishes_what_is_in_flight_and_closes_every_connection(database, user):
    url = database.create_database()
    answers = []

    def create(api):
        answers.append(api.request("POST", "", user, json={"title": "x"}))

    with Proxy(database.port) as proxy, service(NEON_DATABASE_URL=proxy.address(url)) as api:
        api.request("GET", "", user)  # which connects
        request = threading.Thread(target=create, args=(api,))
        before = proxy.round_trips
        proxy.delay = 0.5
        request.start()
        while proxy.round_trips == before:
            assert request.is_alive()
            time.sleep(0.001)
        api.process.send_signal(signal.SIGTERM)
        request.join()
        api.process.wait(10)
    assert [answer.status_code for answer in answers] == [201]
    count = "SELECT count(*) FROM tasks WHERE user_id = %s"
    assert database.execute(count, user, url=url) == [(1,)]
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    assert database.execute(open_ones, url.rpartition("/")[2]) == [(0,)]
