"""The database: its address, its connections, its tables, and the one door to it."""

import asyncio
import logging
import os
import re
from contextlib import closing
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import anyio
from psycopg2 import Error, extensions
from sqlalchemy import Executable, create_engine, event, exc, func, select
from sqlalchemy.util import await_, greenlet_spawn

from backend import ROOT
from backend.models import Task, User

on_shutdown: list[Any] = []  # to be called when the service stops
if not re.fullmatch("[1-9][0-9]{0,3}", pool_size := os.environ.get("DATABASE_POOL_SIZE") or "20"):
    raise SystemExit("DATABASE_POOL_SIZE must be a whole number from 1 to 9999.")
address = os.environ.get("NEON_DATABASE_URL") or os.environ.get("DATABASE_URL") or ""
if address.strip() == "embedded":
    from backend import embedded  # no part of production

    parameters = embedded.start(ROOT / ".postgres")
elif "public-development-secret" in os.environ.get("BETTER_AUTH_SECRET", ""):
    raise SystemExit("BETTER_AUTH_SECRET is the published one, which may guard the embedded database only.")
else:
    # Quoted or in a psql command, too; but no raw @ or / in a password, half of which would be taken for the host.
    found = re.search(r"postgres(?:ql)?(?:\+\w+)?://((?:[^@/\s'\"]*@)?[^@\s'\"]*)(?=[\s'\"][^@]*$|$)", address)
    try:
        parameters = extensions.parse_dsn(f"postgresql://{found[1]}" if found else "none")
    except Error as error:  # its message may quote the address
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
        reason = unknown[0] if unknown else "must be embedded, or an address with its password percent-encoded"
        raise SystemExit(f"NEON_DATABASE_URL: {reason}.") from None
engine = create_engine(
    "postgresql+psycopg2://",
    connect_args={"connect_timeout": 4, **parameters, "client_encoding": "utf8"},
    isolation_level="AUTOCOMMIT",  # no BEGIN and COMMIT, each a round trip
    hide_parameters=True,
    pool_size=int(pool_size),
    pool_use_lifo=True,  # the newest is the likeliest to live, and one found dead condemns the older
    pool_pre_ping=True,
    pool_reset_on_return=None,  # nothing to roll back
)
# Instead of asking the server, read what it may have said before it closed an idle connection (Neon: 57P01, then EOF).
engine.dialect.do_ping = lambda connection: connection.poll() == connection.poll()  # type: ignore[assignment, method-assign]
on_shutdown.append(engine.dispose)
connections = asyncio.Semaphore(int(pool_size))  # waiting in the pool itself would block the event loop
shares: WeakValueDictionary[object, asyncio.Semaphore] = WeakValueDictionary()  # of a user: a quarter of them
# One message with each statement, so one round trip; LOCAL, so that no pooler hands them on to another client.
sql = cache(lambda query: f"SET LOCAL statement_timeout = 4000; SET LOCAL timezone = 'UTC'; {query.compile(engine)}")


def create_tables() -> None:
    """Make the tables that are missing; raise SystemExit if the database does not answer, or its tables differ."""
    try:
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(0x70D0)))  # one process at a time
            Task.metadata.create_all(connection)
            connection.execute(select(Task, User).join(User).limit(0))
    except exc.DBAPIError as error:
        raise SystemExit(f"The database cannot be used: {str(error.orig).splitlines()[0]}") from None
    extensions.set_wait_callback(wait)
    event.listen(engine, "do_connect", look_up)  # libpq would block the event loop while the name server is silent


async def fetch(statement: Executable, **parameters: object) -> list[dict[str, Any]]:
    """Run a user's statement in one round trip and return its rows, or raise ConnectionError."""

    def execute() -> list[dict[str, Any]]:
        with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql(statement), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    share = shares.setdefault(parameters["user_id"], asyncio.Semaphore(max(1, int(pool_size) // 4)))
    try:
        async with asyncio.timeout(4.5), share, connections:  # seconds; a suspended Neon compute needs up to 3
            return await greenlet_spawn(execute)
    except (Error, exc.DBAPIError, OSError, ValueError) as error:  # TimeoutError is an OSError
        logging.getLogger(__name__).warning("database unavailable: %s", type(getattr(error, "orig", error)).__name__)
        raise ConnectionError from error


def wait(connection: Any) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:  # psycopg2 would block; let the event loop run
        await_((anyio.wait_readable if state == extensions.POLL_READ else anyio.wait_writable)(connection.fileno()))


def look_up(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    if "hostaddr" not in parameters and re.fullmatch("[^/,]+", host := parameters.get("host", "")):
        addresses = [str(address[0]) for *_, address in await_(anyio.getaddrinfo(host, None, type=1))]
        parameters |= {"host": ",".join([host] * len(addresses)), "hostaddr": ",".join(addresses)}
