"""Through PgBouncer in transaction mode, as Neon's pooler is: the same contract, and no traces."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from better_auth import program
from load import Load, row
from programs import run_contract_suite, running_program

from tests.harness import Postgres, free_port, service

pytestmark = pytest.mark.system

# All that could stay behind on a connection. The trigger's language brings names with a dot.
SESSION = """
SELECT name, setting FROM pg_settings WHERE name NOT LIKE '%.%'
UNION ALL SELECT 'prepared: ' || name, statement FROM pg_prepared_statements
UNION ALL SELECT 'cursor: ' || name, statement FROM pg_cursors
UNION ALL SELECT 'table: ' || relname, relpersistence::text FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'lock: ' || locktype, mode FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'server process', pg_backend_pid()::text
"""
SETTINGS = """
[databases]
* = host=127.0.0.1 port={database_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {pool_size}
"""


@contextmanager
def pgbouncer(database: Postgres, url: str, folder: Path, pool_size: int) -> Iterator[str]:
    """Run a pooler; yield the address of the database there."""
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    port = free_port()
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "settings").write_text(
        SETTINGS.format(database_port=database.port, port=port, folder=folder, pool_size=pool_size)
    )
    command = [program("pgbouncer", "/usr/sbin/pgbouncer"), str(folder / "settings")]
    user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
    pooled = url.replace(f":{database.port}/", f":{port}/")
    with running_program(command, lambda: database.execute("SELECT 1", url=pooled), user=user):
        yield pooled


def test_the_whole_contract_holds_through_a_pooler(
    database: Postgres, url: str, tmp_path: Path, faults: list[str]
) -> None:
    with pgbouncer(database, url, tmp_path, pool_size=2) as pooled:
        passed = run_contract_suite(TEST_DATABASE_URL=pooled)
    assert database.execute("SELECT count(*) > 0 FROM users", url=url) == [(True,)]
    faults.append(row("through PgBouncer: the contract suite, in tests", passed))


def test_nothing_is_left_to_another_client_of_the_same_connection(
    database: Postgres, url: str, tmp_path: Path, faults: list[str]
) -> None:
    with (
        pgbouncer(database, url, tmp_path, pool_size=1) as pooled,
        closing(psycopg2.connect(pooled)) as other,
    ):
        other.autocommit = True
        other.cursor().execute("SET statement_timeout = 500; SET timezone = 'Asia/Kolkata'")
        before = session(other)
        seen = []
        with service(NEON_DATABASE_URL=pooled) as running, Load(running, database, url) as load:
            for _ in range(30):
                seen.append(session(other))
                time.sleep(0.1)
    assert not load.failures
    for after in seen:
        assert after == before, set(after.items()) ^ set(before.items())
    faults.append(load.row("through PgBouncer, with one connection for all clients"))


def session(client: Any) -> dict[str, str]:
    """Return all that a client can change of the server's side of its connection."""
    with client.cursor() as cursor:
        cursor.execute(SESSION)
        return dict(cursor.fetchall())
