"""The database: its address, its tables, its connections, and `fetch`, the only way to its rows."""

import asyncio
import logging
import os
import re
from contextvars import ContextVar
from socket import SOCK_STREAM
from typing import Any
from weakref import WeakValueDictionary

import anyio
import psycopg2
from psycopg2 import errors, extensions
from sqlalchemy import ClauseElement, Connection, Table, create_engine, exc, func, inspect, select
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_, greenlet_spawn  # what SQLAlchemy's asyncio extension uses
from sqlmodel import SQLModel

from backend import (
    CONNECT_TIMEOUT,
    DEADLINE,
    LOCK_TIMEOUT,
    ROOT,
    STATEMENT_MARGIN,
    UnavailableError,
    read_number,
)

PUBLISHED = "public-development-secret"  # in the text of the secret that .env sets
START_LOCK = 0x70D0  # any number, as long as all services lock the same
TIMEOUT_STEP = 500  # milliseconds; pg_stat_statements keeps an entry for each value of a SET
SILENCE = 1  # seconds without an answer, after which an address of the database comes last
POOL_SIZE = read_number("DATABASE_POOL_SIZE", default=20, most=9999)
# The types of PostgreSQL that do for each of ours.
FITTING_TYPES = {
    "BIGINT": ("int8", "int4"),
    "BOOLEAN": ("bool",),
    "TIMESTAMP WITH TIME ZONE": ("timestamptz",),
    "VARCHAR": ("varchar", "text", "citext"),
}
COLUMNS = """
    SELECT
        quote_ident(column_name) AS name,
        udt_name,
        character_maximum_length AS length,
        is_nullable = 'NO'
            AND column_default IS NULL
            AND is_identity = 'NO'
            AND is_generated = 'NEVER' AS is_required
    FROM information_schema.columns
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = %(table)s
    ORDER BY ordinal_position
"""

Row = dict[str, Any]

logger = logging.getLogger(__name__)
request_deadline: ContextVar[float] = ContextVar("request_deadline")  # on the event loop's clock

parameters: dict[str, Any] = {}  # of the database, for libpq
idle: list[Any] = []  # Connections. The one used last is used next: it is likeliest to be alive.
connections = asyncio.Semaphore(POOL_SIZE)
# One user gets a quarter of the connections, so that a locked row holds up nobody else. An entry
# goes when no request of the user is left.
users_connections: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
last_silent: dict[
    str, float
] = {}  # When an address of the database kept silent. Event loop's clock.


def parse_address(address: str) -> dict[str, str]:
    """Return libpq's parameters for an address, or raise SystemExit without repeating it.

    People paste it with another driver's name, in quotes, or within a psql command, too.
    """
    scheme = re.search(r"postgres(ql)?(\+\w+)?://", address)
    rest = address[scheme.end() :].strip(" \t\r\n'\"") if scheme else ""
    reason = "must be embedded, or an address with its password percent-encoded"
    # With an @ or / in the password, libpq would take a part of it for the host, and show it.
    if rest and not re.search(r"[\s'\"]|[@/].*@", rest):
        try:
            return dict(extensions.parse_dsn(f"postgresql://{rest}"))
        except psycopg2.Error as error:
            unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
            reason = unknown[0] if unknown else reason
    raise SystemExit(f"NEON_DATABASE_URL: {reason}.")


def find_database() -> dict[str, str]:
    """Return libpq's parameters for the database of NEON_DATABASE_URL, or raise SystemExit."""
    address = os.environ.get("NEON_DATABASE_URL", "").strip()
    if address == "embedded":
        try:
            from backend import embedded  # which is no part of production
        except ImportError:
            raise SystemExit(
                "NEON_DATABASE_URL=embedded needs requirements.txt installed."
            ) from None
        return embedded.start(ROOT / ".postgres")
    if PUBLISHED in os.environ.get("BETTER_AUTH_SECRET", ""):
        raise SystemExit("BETTER_AUTH_SECRET is the published one: for the embedded database only.")
    return parse_address(address)


def open_database(statements: list[str], trial: dict[str, Any]) -> None:
    """Make the tables, try the statements, and let `fetch` work; raise SystemExit."""
    parameters.update(connect_timeout=CONNECT_TIMEOUT)
    parameters.update(find_database(), client_encoding="utf8")
    prepare_tables(statements, trial)
    extensions.set_wait_callback(wait_on_event_loop)
    if hasattr(os, "register_at_fork"):
        # A forked worker, as of gunicorn --preload, must not use its parent's connections.
        os.register_at_fork(after_in_child=idle.clear)


def describe_database() -> str:
    """Return the database's host and name, or where the embedded one is, for the log."""
    if os.environ.get("NEON_DATABASE_URL", "").strip() == "embedded":
        return f"embedded in {ROOT / '.postgres'}"
    return f"{parameters.get('host')}/{parameters.get('dbname')}"


def connect_at_start() -> Any:
    """Return a connection as psycopg2 makes it, before it waits on the event loop."""
    return psycopg2.connect(**parameters)


# It is for the start, and to compile statements. Requests use the connections in `idle`.
engine = create_engine("postgresql+psycopg2://", creator=connect_at_start, poolclass=NullPool)


def prepare_tables(statements: list[str], trial: dict[str, Any]) -> None:
    """Make the tables that are missing; try each statement on those that were there already.

    Raise SystemExit if the database does not answer or its tables do not fit.
    """
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'")
            connection.execute(select(func.pg_advisory_xact_lock(START_LOCK)))
            has_table = inspect(connection).has_table
            is_new = not has_table("tasks") and not has_table("users")
            SQLModel.metadata.create_all(connection)
            for table in SQLModel.metadata.sorted_tables:
                check_columns(connection, table)
            if is_new:
                return
            for statement in statements:
                try_statement(connection, statement, trial)
    except exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise SystemExit(f"The database cannot be used: {reason}") from None


def check_columns(connection: Connection, table: Table) -> None:
    """Raise SystemExit if a table that somebody else made has columns that do not fit."""
    rows = connection.exec_driver_sql(COLUMNS, {"table": table.name}).all()
    needed = dict(table.columns)
    if table.name == "users":
        needed.pop("created_at")  # which nothing reads
    faults = []
    changes = []
    for found in rows:
        name = found.name
        column = needed.pop(name, None)
        if column is not None:
            wanted = column.type.compile(engine.dialect)
            has_fitting_type = found.udt_name in FITTING_TYPES[wanted.partition("(")[0]]
            most = getattr(column.type, "length", None) or 0
            is_short = has_fitting_type and found.length and found.length < most
            if not has_fitting_type or is_short:
                faults.append(f"{name} must be {wanted}")
            if is_short:
                changes.append(f"ALTER {name} TYPE {wanted}")
            if found.udt_name == "timestamp":
                changes.append(f"ALTER {name} TYPE {wanted} USING {name} AT TIME ZONE 'UTC'")
        elif found.is_required and name == "created_at":
            faults.append(f"{name} must have a default")
            changes.append(f"ALTER {name} SET DEFAULT now()")
        # Further columns of `users` are filled by whoever makes its rows, as Better Auth does.
        elif found.is_required and table.name == "tasks":
            faults.append(f"{name} must not be required")
            changes.append(f"ALTER {name} DROP NOT NULL")
    if rows:  # A role without rights on the table sees no column, and is told by the trial.
        faults += [f"{name} is missing" for name in needed]
    if faults:
        line = f"The table {table.name}: {', '.join(faults)}."
        if len(changes) == len(faults):
            line += f" This mends it: ALTER TABLE {table.name} {', '.join(changes)};"
        raise SystemExit(line)


def try_statement(connection: Connection, statement: str, trial: dict[str, Any]) -> None:
    """Run a statement and undo it, to learn at start of a missing right or a read-only server.

    It may fail for want of a user's row: in a table of Better Auth's, a sign-up makes it.
    """
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(statement, trial)
    except exc.IntegrityError as error:
        if not wants_sign_up(error.orig):
            raise
    finally:
        savepoint.rollback()


def wants_sign_up(error: Any) -> bool:
    """Tell whether CREATE failed because it could not make the user's row.

    The table may require more columns, or the e-mail address may be another user's already. In
    the second case no row is made, which the foreign key of the task then finds out.
    """
    if isinstance(error, errors.NotNullViolation):
        return bool(error.diag.table_name == "users")
    return isinstance(error, errors.ForeignKeyViolation)


def prepare(statement: ClauseElement) -> str:
    """Return a statement's SQL for `fetch`.

    Raise TypeError if it has no parameter user_id, or one that `fetch` would not fill.
    """
    compiled: Any = statement.compile(dialect=engine.dialect)
    if "user_id" not in compiled.binds:
        raise TypeError("A statement names its owner in the parameter user_id.")
    for name, parameter in compiled.binds.items():
        if not parameter.required:
            raise TypeError(f"{name} has a value already; bindparam() makes a parameter of it.")
    return str(compiled)


def wait_on_event_loop(connection: Any) -> None:
    """Let the event loop run while psycopg2 waits for the server.

    psycopg2 calls this instead of blocking (its "wait callback", made for coroutine libraries).
    It runs in a greenlet: a function call that can be left in the middle and continued later.
    `await_` leaves it and has the event loop wait for the socket, as in SQLAlchemy's asyncio
    extension. A blocking driver thus needs no threads, which would cost a fifth more CPU, and a
    statement on a silent connection can be given up at the deadline.
    """
    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_READ:
            await_(anyio.wait_readable(connection.fileno()))
        else:
            await_(anyio.wait_writable(connection.fileno()))


def start_deadline() -> None:
    """Give the current request DEADLINE seconds for all that it waits for."""
    request_deadline.set(asyncio.get_running_loop().time() + DEADLINE)


async def fetch(statement: str, *, user_id: str, **values: Any) -> list[Row]:
    """Run one of a user's statements in one round trip, and return its rows.

    Raise UnavailableError at the request's deadline or if the connection fails, and psycopg2's
    error if PostgreSQL refuses the statement. What was sent is never sent again.
    """
    new_share = asyncio.Semaphore(max(1, POOL_SIZE // 4))
    share = users_connections.setdefault(user_id, new_share)
    try:
        async with asyncio.timeout_at(request_deadline.get()), share, connections:
            return await greenlet_spawn(execute, statement, {"user_id": user_id, **values})
    # Cancelled statements and lost connections, the deadline, and a name that is not found.
    except (psycopg2.OperationalError, psycopg2.InterfaceError, TimeoutError, OSError) as error:
        logger.warning("database unavailable: %s", type(error).__name__)
        raise UnavailableError from None


def execute(statement: str, values: dict[str, Any]) -> list[Row]:
    connection = take_idle() or connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(limits() + statement, values)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
    except asyncio.CancelledError:
        # PostgreSQL itself would have ended the statement by now. So the network is silent, and
        # the idle connections are as useless as this one, which psycopg2 has closed.
        close_idle()
        raise
    finally:
        if not connection.closed:
            idle.append(connection)


def limits() -> str:
    """Return the settings that go before a statement, in the same message and round trip.

    PostgreSQL gets the time that is left; raise TimeoutError if that is nothing. The statements of
    one message are one transaction, at whose end LOCAL settings end, so that a pooler does not
    hand them on to its next client.
    """
    left = request_deadline.get() - asyncio.get_running_loop().time() - STATEMENT_MARGIN
    timeout = int(left * 1000 / TIMEOUT_STEP) * TIMEOUT_STEP
    if timeout <= 0:
        raise TimeoutError
    return f"SET LOCAL statement_timeout = {timeout}; SET LOCAL timezone = 'UTC'; "


def take_idle() -> Any:
    """Return a connection that is alive, or None."""
    while idle:
        connection = idle.pop()
        if is_alive(connection):
            return connection
        connection.close()
    return None


def is_alive(connection: Any) -> bool:
    """Tell whether the server has kept an idle connection open, without a round trip.

    A server that ends a connection says why and then closes it, so there are two things to read.
    """
    try:
        connection.poll()
        connection.poll()
    except psycopg2.Error:
        return False
    return True


def close_idle() -> None:
    """Close the connections that no request uses."""
    while idle:
        idle.pop().close()


def connect() -> Any:
    addresses = look_up()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        connection = psycopg2.connect(**(parameters | addresses))
    except asyncio.CancelledError:
        # A request that had queued may have had no time to wait for an answer.
        if loop.time() - began > SILENCE:
            first_address = addresses.get("hostaddr", "").partition(",")[0]
            last_silent[first_address] = loop.time()
        raise
    connection.autocommit = True  # without BEGIN and COMMIT, each a round trip
    return connection


def look_up() -> dict[str, str]:
    """Return the addresses of the host: libpq's own look-up would block the event loop.

    libpq tries them in order, but waits for ever for one that is silent. The one that was silent
    last therefore stands at the end.
    """
    host = parameters.get("host", "")
    if "hostaddr" in parameters or not re.fullmatch("[^/,]+", host):
        return {}
    found = await_(anyio.getaddrinfo(host, None, type=SOCK_STREAM))
    addresses = [str(address[0]) for *_, address in found]
    addresses.sort(key=lambda address: last_silent.get(address, 0.0))
    return {"host": ",".join([host] * len(addresses)), "hostaddr": ",".join(addresses)}
