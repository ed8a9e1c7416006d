"""The database: its address, its tables, its connections, and `fetch`, the only way to its rows.

First comes what happens once, at the start: the address, and the tables. Then what each request
uses: waiting on the event loop, the pool of connections, and `fetch`.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from socket import SOCK_STREAM
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import anyio
import psycopg2
from psycopg2 import errors, extensions
from sqlalchemy import (
    ClauseElement,
    Column,
    Connection,
    Table,
    create_engine,
    exc,
    func,
    inspect,
    select,
)
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from backend import (
    CONNECT_TIMEOUT,
    DEADLINE,
    LOCK_TIMEOUT,
    ROOT,
    STATEMENT_MARGIN,
    TIMEOUT_STEP,
    UnavailableError,
    read_number,
    read_setting,
)

PUBLIC_MARK = "public-development-secret"  # stands in the secret that .env sets
EMBEDDED = ROOT / ".postgres"
POOL_SIZE = read_number("DATABASE_POOL_SIZE", default=20, most=9999)
DIALECT = create_engine("postgresql+psycopg2://").dialect  # It compiles, and connects to nothing.
# The scheme, maybe with a driver; the rest of the address; and the end of a command around it.
ADDRESS = re.compile(r"""postgres(ql)?(\+\w+)?://(?P<rest>[^\s'"]+)[\s'"]*$""")
START_LOCK = 0x70D0  # any number, as long as all services lock the same
# The only column of ours that no statement names. So it may be missing, or of any type, but if it
# is required, it must have a default.
LEFT_TO_DEFAULT = ("users", "created_at")
# For each type of our columns, the types of PostgreSQL that will do.
FITTING_TYPES = {
    "BIGINT": ("int8", "int4"),
    "BOOLEAN": ("bool",),
    "TIMESTAMP WITH TIME ZONE": ("timestamptz",),
    "VARCHAR": ("varchar", "text", "citext"),
}
COLUMNS = """
    SELECT
        column_name AS name,
        quote_ident(column_name) AS quoted_name,
        udt_name AS type,
        character_maximum_length AS length,
        is_nullable = 'NO' AS is_not_null,
        is_nullable = 'NO'
            AND column_default IS NULL
            AND is_identity = 'NO'
            AND is_generated = 'NEVER' AS is_required
    FROM information_schema.columns
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = %(table)s
    ORDER BY ordinal_position
"""

Parameters = dict[str, str]  # of a connection, as libpq names them
Row = dict[str, Any]

logger = logging.getLogger(__name__)
# On the event loop's clock. What get_current_user sets, `fetch` sees: FastAPI runs asynchronous
# dependencies in the same context as the route.
request_deadline: ContextVar[float] = ContextVar("request_deadline")


def parse_address(address: str) -> Parameters:
    """Return libpq's parameters for an address, or raise SystemExit without repeating it.

    People paste it with another driver's name (postgresql+asyncpg://...), in quotes, or within a
    command (psql 'postgresql://...').
    """
    refusal = SystemExit(
        "NEON_DATABASE_URL: must be embedded, or an address with its password percent-encoded."
    )
    found = ADDRESS.search(address)
    if not found:
        raise refusal
    credentials = found["rest"].rpartition("@")[0]
    if "@" in credentials or "/" in credentials:
        # libpq would take a part of the password for the host or the port, and show it in errors.
        raise refusal
    try:
        return dict(extensions.parse_dsn(f"postgresql://{found['rest']}"))
    except psycopg2.Error as error:
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
        if unknown:
            raise SystemExit(f"NEON_DATABASE_URL: {unknown[0]}.") from None
        raise refusal from None


def find_database() -> Parameters:
    """Return libpq's parameters for the database that NEON_DATABASE_URL names, or raise SystemExit.

    (A DATABASE_URL has become NEON_DATABASE_URL in backend/__init__.py.) The embedded database is
    started here, and ends by itself soon after the service.
    """
    url = read_setting("NEON_DATABASE_URL")
    if url == "embedded":
        try:
            from backend import embedded  # which is no part of production
        except ImportError:
            raise SystemExit(
                "NEON_DATABASE_URL=embedded needs requirements.txt installed."
            ) from None
        parameters = embedded.start(EMBEDDED)
    elif PUBLIC_MARK in read_setting("BETTER_AUTH_SECRET"):
        raise SystemExit("BETTER_AUTH_SECRET is the published one: for the embedded database only.")
    else:
        parameters = parse_address(url)
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT))  # for prepare_tables
    parameters["client_encoding"] = "utf8"
    return parameters


def describe_database(parameters: Parameters) -> str:
    """Return the database's host and name, or where the embedded one is, for the log."""
    if read_setting("NEON_DATABASE_URL") == "embedded":
        return f"embedded in {EMBEDDED}"
    return f"{parameters.get('host')}/{parameters.get('dbname')}"


def prepare_tables(parameters: Parameters, statements: list[str], trial: dict[str, Any]) -> None:
    """Make the tables that are missing; try each statement on those that were there already.

    `parameters` are libpq's for the database, `trial` the values of the statements' parameters.
    Raise SystemExit if the database does not answer or its tables do not fit.
    """
    engine = create_engine("postgresql+psycopg2://", connect_args=parameters, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'")
            connection.execute(select(func.pg_advisory_xact_lock(START_LOCK)))
            inspector = inspect(connection)
            is_new = not inspector.has_table("tasks") and not inspector.has_table("users")
            SQLModel.metadata.create_all(connection)
            for table in SQLModel.metadata.sorted_tables:
                check_columns(connection, table)
            if is_new:
                return  # Nothing can be wrong, and a trial would use up the first id.
            for statement in statements:
                try_statement(connection, statement, trial)
    except exc.DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        raise SystemExit(f"The database cannot be used: {reason}") from None


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


class Misfit(NamedTuple):
    """What is wrong with a column."""

    sentence: str
    action: str  # of an ALTER TABLE that mends it, or "" if none is known


def check_columns(connection: Connection, table: Table) -> None:
    """Raise SystemExit if a table that somebody else made has columns that do not fit.

    Its one line has an ALTER TABLE that mends the table, if one is known.
    """
    rows = connection.exec_driver_sql(COLUMNS, {"table": table.name})
    present = {row.name: row for row in rows}
    if not present:
        return  # A role without rights on the table sees no column. `try_statement` reports that.
    misfits = list(find_misfits(table, present))
    if not misfits:
        return
    line = f"The table {table.name}: {', '.join(misfit.sentence for misfit in misfits)}."
    actions = [misfit.action for misfit in misfits]
    if all(actions):
        line += f" This mends it: ALTER TABLE {table.name} {', '.join(actions)};"
    raise SystemExit(line)


def find_misfits(table: Table, present: dict[str, Any]) -> Iterator[Misfit]:
    """Yield what is wrong with each column that is present, and which of ours are missing."""
    for name, found in present.items():
        quoted = found.quoted_name
        if (table.name, name) == LEFT_TO_DEFAULT:
            if found.is_required:
                yield Misfit(f"{quoted} must have a default", f"ALTER {quoted} SET DEFAULT now()")
            continue
        ours = table.columns.get(name)
        # `users` may require columns that CREATE does not fill: signing up makes such rows.
        if table.name != "users" and is_too_strict(ours, found):
            yield Misfit(f"{quoted} must not be required", f"ALTER {quoted} DROP NOT NULL")
        if ours is not None:
            yield from find_type_misfit(ours, found)
    for column in table.columns:
        if column.name not in present and (table.name, column.name) != LEFT_TO_DEFAULT:
            yield Misfit(f"{column.name} is missing", "")


def is_too_strict(ours: Column[Any] | None, found: Any) -> bool:
    """Tell whether a column wants a value where the statements give it none."""
    if ours is None:
        return bool(found.is_required)  # No statement names it.
    # Where ours may be NULL, the statements write NULL, and a default does not help.
    return bool(ours.nullable and found.is_not_null)


def find_type_misfit(ours: Column[Any], found: Any) -> Iterator[Misfit]:
    """Yield what is wrong if one of our columns has a type that does not fit, or is too short."""
    name = found.quoted_name
    wanted = ours.type.compile(DIALECT)  # such as VARCHAR(200)
    kind = wanted.partition("(")[0]
    sentence = f"{name} must be {wanted}"
    if kind not in FITTING_TYPES:
        return  # `try_statement` finds out.
    if found.type in FITTING_TYPES[kind]:
        length = getattr(ours.type, "length", None) or 0
        if found.length and found.length < length:
            yield Misfit(sentence, f"ALTER {name} TYPE {wanted}")
    elif kind == "TIMESTAMP WITH TIME ZONE" and found.type == "timestamp":
        yield Misfit(sentence, f"ALTER {name} TYPE {wanted} USING {name} AT TIME ZONE 'UTC'")
    else:
        yield Misfit(sentence, "")


def wants_sign_up(error: Any) -> bool:
    """Tell whether CREATE failed because it could not make the user's row.

    The table may require what the token does not have, or the e-mail address may be another user's
    already. In the second case no row is made, which the foreign key of the task then finds out.
    """
    if isinstance(error, errors.NotNullViolation):
        return bool(error.diag.table_name == "users")
    return isinstance(error, errors.ForeignKeyViolation)


def compile_sql(statement: ClauseElement) -> str:
    """Return a statement's SQL for `fetch`.

    Raise TypeError unless user_id is a parameter, and each parameter is a bindparam().
    """
    compiled: Any = statement.compile(dialect=DIALECT)
    if "user_id" not in compiled.binds:
        raise TypeError("The statement lacks the parameter user_id, which names the owner.")
    for name, parameter in compiled.binds.items():
        if not parameter.required:  # as that of `Task.id == 5`
            raise TypeError(f"{name} has a value already; bindparam() makes a parameter of it.")
    return str(compiled)


async def wait(connection: extensions.connection) -> None:
    """Wait until psycopg2 has connected, or has the answer to a statement.

    psycopg2 is no asyncio driver, but has asynchronous connections: nothing blocks, and `poll` says
    for what their socket has to wait. (See "Asynchronous support" in its documentation.) So the
    event loop does the waiting. Threads would cost half as much CPU again, and could not be
    given a deadline.
    """
    try:
        while (state := connection.poll()) != extensions.POLL_OK:
            if state == extensions.POLL_READ:
                await anyio.wait_readable(connection.fileno())
            else:
                await anyio.wait_writable(connection.fileno())
    except asyncio.CancelledError:
        connection.close()  # The answer may still arrive, and must not be taken for another's.
        raise


async def open_connection(parameters: Parameters) -> extensions.connection:
    """Return a new connection.

    An asynchronous one never sends BEGIN and COMMIT, which would each be a round trip.
    """
    connection = psycopg2.connect(**parameters, async_=True)
    await wait(connection)
    return connection


async def run_statement(
    connection: extensions.connection, statement: str, values: dict[str, Any]
) -> list[Row]:
    """Run a statement, and return its rows by the names of their columns."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        await wait(connection)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


class Pool:
    """At most `size` connections to the database; one user gets a quarter of them, or one."""

    def __init__(self, size: int) -> None:
        self.parameters: Parameters = {}  # of the database, for libpq; use() sets them
        # The connection used last is used next, for it is likeliest to be alive.
        self.idle: list[extensions.connection] = []
        self.places = asyncio.Semaphore(size)
        # Each user has a share of the places, so that one user's locked row holds up nobody else.
        self.share_size = max(1, size // 4)
        self.shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def use(self, parameters: Parameters) -> None:
        """Use this database from now on."""
        self.parameters = parameters
        if hasattr(os, "register_at_fork"):
            # If a server forks after its first request, parent and child share the sockets of idle
            # connections, and each would read the other's answers. So the child forgets them. They
            # stay open for the parent: psycopg2 closes a connection only in the process that made
            # it.
            os.register_at_fork(after_in_child=self.idle.clear)

    async def execute(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement on an idle or a new connection, and return its rows."""
        # `shares` forgets a share as soon as no request has it in this variable.
        share = self.shares.setdefault(values["user_id"], asyncio.Semaphore(self.share_size))
        async with share, self.places:
            connection = self.take_idle() or await self.connect()
            try:
                return await run_statement(connection, local_settings() + statement, values)
            except asyncio.CancelledError:
                # `wait` has closed this connection: the deadline in `fetch` has passed, or the
                # service stops. If it was the deadline, PostgreSQL should have ended the statement
                # before. As it has not, it is silent, and the idle connections are no better.
                self.close_idle()
                raise
            finally:
                if not connection.closed:
                    self.idle.append(connection)

    def take_idle(self) -> extensions.connection | None:
        """Return a connection that is alive, if there is one."""
        while self.idle:
            connection = self.idle.pop()
            if is_alive(connection):
                return connection
            connection.close()
        return None

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        while self.idle:
            self.idle.pop().close()

    async def connect(self) -> extensions.connection:
        """Return a new connection, to the first address of the host that answers.

        libpq heeds connect_timeout only where it blocks. Here it would wait for a silent address
        until the request's deadline. So each address gets the same part of the time that is left.
        """
        *others, last = await look_up(self.parameters)
        part = seconds_left() / (len(others) + 1)
        for address in others:
            with suppress(TimeoutError, psycopg2.OperationalError):
                async with asyncio.timeout(part):
                    return await open_connection(self.parameters | address)
        return await open_connection(self.parameters | last)  # It has all the time that is left.


async def look_up(parameters: Parameters) -> list[Parameters]:
    """Return libpq's parameter for each address of the database's host.

    libpq's own look-up would block the event loop. A socket or a list of hosts is left to libpq.
    """
    host = parameters.get("host", "")
    if "hostaddr" in parameters or not re.fullmatch("[^/,]+", host):
        return [{}]
    found = await anyio.getaddrinfo(host, None, type=SOCK_STREAM)
    return [{"hostaddr": str(address[0])} for *_, address in found]


pool = Pool(POOL_SIZE)


def is_alive(connection: extensions.connection) -> bool:
    """Tell whether the server has kept an idle connection open, without a round trip.

    A poll reads what has arrived, and sends nothing. A server that ends a connection says why and
    then closes it: the first poll may read the reason, and the second one finds the end.
    """
    try:
        connection.poll()
        connection.poll()
    except psycopg2.Error:
        return False
    return True


def start_deadline() -> None:
    """Give the current request DEADLINE seconds for all that it waits for."""
    request_deadline.set(asyncio.get_running_loop().time() + DEADLINE)


def seconds_left() -> float:
    """Return the time until the current request's deadline."""
    return request_deadline.get() - asyncio.get_running_loop().time()


def local_settings() -> str:
    """Return what goes before a statement, in the same message and round trip.

    The statement gets the time that is left, less STATEMENT_MARGIN. This is rounded down to a
    multiple of TIMEOUT_STEP, because PostgreSQL's extension pg_stat_statements keeps an entry for
    each different SET (up to version 17). Raise TimeoutError if nothing is left.

    The statements of one message are one transaction, so LOCAL settings hold for those that follow,
    and end with the message: a pooler does not hand them on to its next client.
    """
    steps = int((seconds_left() - STATEMENT_MARGIN) / TIMEOUT_STEP)
    if steps <= 0:
        raise TimeoutError
    milliseconds = round(steps * TIMEOUT_STEP * 1000)
    return f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL timezone = 'UTC'; "


async def fetch(statement: str, *, user_id: str, **values: Any) -> list[Row]:
    """Run a user's SELECT, or statement with RETURNING, in one round trip, and return its rows.

    Raise UnavailableError at the request's deadline or if the connection fails, and psycopg2's
    error if PostgreSQL refuses the statement. What was sent is never sent again.
    """
    try:
        async with asyncio.timeout_at(request_deadline.get()):
            return await pool.execute(statement, {"user_id": user_id, **values})
    except (
        psycopg2.OperationalError,  # such as a lost connection, or a statement that was cancelled
        psycopg2.InterfaceError,  # such as a connection that is closed already
        errors.ReadOnlySqlTransaction,  # The server has become a standby.
        OSError,  # such as TimeoutError, which is the deadline, and a host that is not found
    ) as error:
        logger.warning("database unavailable: %s", type(error).__name__)
        raise UnavailableError from None
