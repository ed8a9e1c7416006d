"""Through PgBouncer in transaction mode, as Neon's pooler is: the same contract, and no traces.

Alone: .venv/bin/pytest -m system tests/system/test_pooler.py
It needs Debian's package: apt-get install pgbouncer
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from contract import run_contract_suite
from load import Figures, Load, figures, wait_until

from tests.harness import Postgres, free_port, service

__all__ = ["figures"]
pytestmark = pytest.mark.system

Pooled = Callable[[str], str]

# All that could stay behind on a connection. The trigger's language brings names with a dot.
SESSION = """
SELECT name, setting FROM pg_settings WHERE name NOT LIKE '%.%'
UNION ALL SELECT 'prepared: ' || name, statement FROM pg_prepared_statements
UNION ALL SELECT 'cursor: ' || name, statement FROM pg_cursors
UNION ALL SELECT 'table: ' || relname, relpersistence::text FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'lock: ' || locktype, mode FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'server process', pg_backend_pid()::text
"""


@contextmanager
def pgbouncer(database: Postgres, pool_size: int) -> Iterator[Pooled]:
    """Run a pooler; yield what turns a database's address into its address at the pooler."""
    # Debian puts it where only root's PATH leads.
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("pgbouncer is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as log:
        Path(directory).chmod(0o755)
        users, settings = Path(directory) / "users.txt", Path(directory) / "pgbouncer.ini"
        users.write_text('"postgres" ""\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={database.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\n"
        )
        user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
        process = subprocess.Popen(
            [program, str(settings)], stdout=log, stderr=subprocess.STDOUT, user=user
        )

        def answers() -> bool:
            log.seek(0)
            assert process.poll() is None, log.read()
            try:
                database.execute("SELECT 1", url=pooled(database.url))
            except psycopg2.OperationalError:
                return False
            return True

        def pooled(url: str) -> str:
            return url.replace(f":{database.port}/", f":{port}/")

        try:
            wait_until(answers, "the pooler answers")
            yield pooled
        finally:
            process.terminate()
            process.wait(10)


def test_the_whole_contract_holds_through_a_pooler(database: Postgres, figures: Figures) -> None:
    url = database.create_database()
    with pgbouncer(database, pool_size=2) as pooled:
        passed = run_contract_suite(TEST_DATABASE_URL=pooled(url))
    assert database.execute("SELECT count(*) > 0 FROM users", url=url) == [(True,)], (
        "the suite went elsewhere"
    )
    figures.add_row("through PgBouncer: the contract suite, in tests", passed)


def test_nothing_leaks_to_another_client_of_the_same_connection(
    database: Postgres, figures: Figures
) -> None:
    url = database.create_database()
    with pgbouncer(database, pool_size=1) as pooled, closing(connect(pooled(url))) as other:
        before = session(other)
        seen = []
        with (
            service(NEON_DATABASE_URL=pooled(url)) as running,
            Load(running, database, url) as load,
        ):
            for _ in range(40):
                seen.append(session(other))
                time.sleep(0.1)
        seen.append(session(other))
    assert not load.failures
    assert len(load.sessions()) <= 1
    for after in seen:
        assert after == before, set(after.items()) ^ set(before.items())
    figures.add("through PgBouncer, with one connection for all clients", load)


def test_what_another_client_leaves_behind_changes_no_answer(database: Postgres) -> None:
    url = database.create_database()
    with (
        pgbouncer(database, pool_size=1) as pooled,
        service(NEON_DATABASE_URL=pooled(url)) as running,
        closing(connect(pooled(url))) as other,
        closing(psycopg2.connect(url)) as holder,
    ):
        task = running.request("POST", json={"title": "wanted"}).json()["id"]
        other.cursor().execute("SET statement_timeout = 500")
        holder.cursor().execute("SELECT FROM tasks FOR UPDATE")
        timer = threading.Timer(1, holder.rollback)  # later than the limit that was left behind
        timer.start()
        answer = running.request("PATCH", f"/{task}/complete")
        timer.join()
        assert answer.status_code == 200


def connect(url: str) -> Any:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def session(client: Any) -> dict[str, str]:
    """Return all that a client can change of the server's side of its connection."""
    with client.cursor() as cursor:
        cursor.execute(SESSION)
        return dict(cursor.fetchall())
