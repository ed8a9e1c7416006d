"""Two services in front of one PostgreSQL, behind nginx: one may die while users write.

Alone: .venv/bin/pytest -m system tests/system/test_two_services.py
It needs Debian's package: apt-get install nginx
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from better_auth import missing
from load import Figures, Load, figures, headers, path, wait_until

from tests.harness import Postgres, Service, free_port

__all__ = ["figures"]
pytestmark = pytest.mark.system

USERS = 50
SECONDS_OF_OUTAGE = 4

# uvicorn closes a connection that is idle for 5 s, so nginx has to do it earlier.
# "off" sends no request a second time, and one failure keeps requests away for a second.
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{
  worker_connections 2048;
}}
http {{
  access_log off;
  client_body_temp_path {directory}/bodies;
  proxy_temp_path {directory}/answers;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream services {{
    server 127.0.0.1:{ports[0]} max_fails=1 fail_timeout=1s;
    server 127.0.0.1:{ports[1]} max_fails=1 fail_timeout=1s;
    keepalive 100;
    keepalive_timeout 4s;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://services;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_next_upstream off;
    }}
  }}
}}
"""


class Member(Service):
    """A service on a port of our choice, which it has again after a restart."""

    def __init__(self, port: int, database: str) -> None:
        super().__init__("--port", str(port), NEON_DATABASE_URL=database)  # the last --port counts
        self.client.close()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=15)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def cpu(self) -> float:
        """Return the ticks of CPU it has used."""
        _, _, numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")
        return sum(int(number) for number in numbers.split()[11:13])


class Front:
    """nginx, and the services behind it; to the load it looks like one service."""

    def __init__(self, port: int, members: list[Member]) -> None:
        self.port = port
        self.members = members

    def request(self, method: str, user: str, **options: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path(user)}"
        return httpx.request(method, url, headers=headers(user), timeout=15, **options)

    def output(self) -> str:
        return "".join(member.output() for member in self.members)


@contextmanager
def nginx(members: list[Member]) -> Iterator[Front]:
    # Debian puts it where only root's PATH leads.
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        missing("nginx is not installed")
    front = Front(free_port(), members)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as log:
        Path(directory).chmod(0o755)
        ports = [member.port for member in members]
        settings = Path(directory) / "nginx.conf"
        settings.write_text(CONFIGURATION.format(directory=directory, ports=ports, port=front.port))
        process = subprocess.Popen(
            [program, "-c", str(settings), "-p", directory], stdout=log, stderr=subprocess.STDOUT
        )

        def answers() -> bool:
            log.seek(0)
            assert process.poll() is None, log.read()
            with suppress(httpx.TransportError):
                return front.request("GET", user="user 0").status_code == 200
            return False

        try:
            wait_until(answers, "nginx answers")
            yield front
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def two_services(url: str) -> Iterator[list[Member]]:
    """Run two services; those that are added to the list are stopped, too."""
    members = [Member(free_port(), url), Member(free_port(), url)]
    try:
        for member in members:
            member.wait_until_up()
        yield members
    finally:
        for member in members:
            member.stop()


def test_one_of_two_services_is_killed_and_restarted_while_50_users_write(
    database: Postgres, figures: Figures
) -> None:
    url = database.create_database()
    with (
        two_services(url) as members,
        nginx(members) as front,
        Load(front, database, url, users=USERS, readers=False, workers=2) as load,  # type: ignore[arg-type]
    ):
        victim, survivor = members
        assert takes_part(victim)
        assert takes_part(survivor)
        load.may_be_told_502 = True
        # uvicorn sends the head of an answer before its body. If the service dies in between, nginx
        # has passed on the head, and can only break off.
        load.may_lose_connections = True
        victim.kill()
        time.sleep(0.5)
        before, failed = load.requests, load.failures.total()
        time.sleep(SECONDS_OF_OUTAGE)
        answered = load.requests - before
        lost = load.failures.total() - failed
        assert answered > 10 * USERS, "the other carries on"
        assert lost <= 5 * SECONDS_OF_OUTAGE, "nginx asks the dead one rarely"
        successor = Member(victim.port, url)
        members.append(successor)
        successor.wait_until_up()
        time.sleep(2)  # longer than nginx stays away
        load.may_be_told_502 = False
        load.may_lose_connections = False
        assert takes_part(successor)
        time.sleep(1)
    assert "502" in load.failures
    assert load.failures.keys() <= {"502", "connection lost"}
    figures.add("one of two services behind nginx killed with -9", load)


def takes_part(member: Member) -> bool:
    """Return whether a service works on requests."""
    before = member.cpu()
    time.sleep(1)
    return member.cpu() - before > 10
