"""Two services in front of one PostgreSQL, behind nginx: one may die while users write."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from better_auth import program
from load import Load
from programs import running_program

from tests.conftest import RunningService
from tests.harness import Postgres, Service, free_port, service

pytestmark = pytest.mark.system

# "off" sends no request a second time, and one failure keeps requests away for a second.
CONFIGURATION = """
daemon off;
pid nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t;
  scgi_temp_path t;
  upstream services {{
    server 127.0.0.1:{ports[0]} fail_timeout=1s;
    server 127.0.0.1:{ports[1]} fail_timeout=1s;
    keepalive 100;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://services;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, *members: Service) -> Iterator[RunningService]:
    """Run nginx in front of services; yield what looks like one service."""
    port = free_port()
    ports = [member.port for member in members]
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(ports=ports, port=port))
    command = [program("nginx", "/usr/sbin/nginx"), "-c", "nginx.conf", "-p", str(folder)]
    *_, last = members
    front = RunningService(f"http://127.0.0.1:{port}", last.database, last.log.name)
    with running_program(command, lambda: front.client.get("/health").is_success), front:
        yield front


def test_one_of_two_services_is_killed_while_users_write(
    database: Postgres, url: str, tmp_path: Path, faults: list[str]
) -> None:
    with (
        service("--timeout-keep-alive", "75", NEON_DATABASE_URL=url) as victim,
        service("--timeout-keep-alive", "75", NEON_DATABASE_URL=url) as survivor,
        nginx(tmp_path, victim, survivor) as front,
        Load(front, database, url, users=30, workers=2) as load,
    ):
        # uvicorn sends the head of an answer before its body. If the service dies in between, nginx
        # has passed on the head, and can only break off.
        load.explained |= {"502", "connection lost"}
        victim.process.kill()
        time.sleep(0.5)
        requests, failures = load.requests, load.failures.total()
        time.sleep(3)
        assert load.requests - requests > 100, "the other carries on"
        assert load.failures.total() - failures < 50, "nginx asks the dead one rarely"
    assert "502" in load.failures, "the dead one was asked"
    faults.append(load.row("one of two services behind nginx killed with -9"))
