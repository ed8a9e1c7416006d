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
    Connection,
    Dialect,
    Table,
    create_engine,
    exc,
    func,
    inspect,
    select,
)
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_, greenlet_spawn  # SQLAlchemy 2.1's own bridge to asyncio
from sqlmodel import SQLModel

from backend import (
    ADDRESS_TIMEOUT,
    CONNECT_TIMEOUT,
    DEADLINE,
    LOCK_TIMEOUT,
    ROOT,
    STATEMENT_MARGIN,
    UnavailableError,
    read_number,
)

PUBLISHED = "public-development-secret"  # in the text of the secret that .env sets
EMBEDDED = ROOT / ".postgres"
POOL_SIZE = read_number("DATABASE_POOL_SIZE", default=20, most=9999)
DIALECT = create_engine("postgresql+psycopg2://").dialect  # It compiles, and connects to nothing.
# Milliseconds. Each statement's timeout is a multiple of it: the extension pg_stat_statements keeps
# an entry for every timeout that it sees.
TIMEOUT_STEP = 500
START_LOCK = 0x70D0  # any number, as long as all services lock the same
# Nothing reads this column, and nothing sets it but its default.
LEFT_TO_DEFAULT = "users.created_at"
# For each type of our columns, the types of PostgreSQL that will do. One that is not named here is
# left to `try_statement`.
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
        column_default IS NULL AND is_identity = 'NO' AND is_generated = 'NEVER' AS has_no_default
    FROM information_schema.columns
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = %(table)s
    ORDER BY ordinal_position
"""

Row = dict[str, Any]

logger = logging.getLogger(__name__)
request_deadline: ContextVar[float] = ContextVar("request_deadline")  # on the event loop's clock


def parse_address(address: str) -> dict[str, str]:
    """Return libpq's parameters for an address, or raise SystemExit without repeating it.

    People paste it with another driver's name (postgresql+asyncpg://...), in quotes, or within a
    command (psql 'postgresql://...').
    """
    reason = "must be embedded, or an address with its password percent-encoded"
    scheme = re.search(r"postgres(ql)?(\+\w+)?://", address)
    rest = address[scheme.end() :].strip(" \t\r\n'\"") if scheme else ""
    has_blank_or_quote = re.search(r"[\s'\"]", rest)
    # As in user:p@ss@host or user:p/ss@host. libpq would take a part of the password for the host,
    # and show it.
    has_raw_password = re.search(r"[@/].*@", rest)
    if rest and not has_blank_or_quote and not has_raw_password:
        try:
            return dict(extensions.parse_dsn(f"postgresql://{rest}"))
        except psycopg2.Error as error:
            unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
            reason = unknown[0] if unknown else reason
    raise SystemExit(f"NEON_DATABASE_URL: {reason}.")


def find_database() -> dict[str, str]:
    """Return libpq's parameters for the database of NEON_DATABASE_URL, or raise SystemExit."""
    url = os.environ.get("NEON_DATABASE_URL", "").strip()
    if url == "embedded":
        try:
            from backend import embedded  # which is no part of production
        except ImportError:
            raise SystemExit(
                "NEON_DATABASE_URL=embedded needs requirements.txt installed."
            ) from None
        parameters = embedded.start(EMBEDDED)
    elif PUBLISHED in os.environ.get("BETTER_AUTH_SECRET", ""):
        raise SystemExit("BETTER_AUTH_SECRET is the published one: for the embedded database only.")
    else:
        parameters = parse_address(url)
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT))  # for prepare_tables
    parameters["client_encoding"] = "utf8"
    return parameters


def describe_database(parameters: dict[str, str]) -> str:
    """Return the database's host and name, or where the embedded one is, for the log."""
    if os.environ.get("NEON_DATABASE_URL", "").strip() == "embedded":
        return f"embedded in {EMBEDDED}"
    return f"{parameters.get('host')}/{parameters.get('dbname')}"


def prepare_tables(
    parameters: dict[str, str], statements: list[str], trial: dict[str, Any]
) -> None:
    """Make the tables that are missing; try each statement on those that were there already.

    `parameters` are libpq's for the database, `trial` the values of the statements' parameters.
    Raise SystemExit if the database does not answer or its tables do not fit.
    """
    engine = create_engine("postgresql+psycopg2://", connect_args=parameters, poolclass=NullPool)
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
                return  # Nothing can be wrong, and a trial would use up the first id.
            for statement in statements:
                try_statement(connection, statement, trial)
    except exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
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
    action: str  # of the ALTER TABLE that mends it, or "" if there is none


def check_columns(connection: Connection, table: Table) -> None:
    """Raise SystemExit if a table that somebody else made has columns that do not fit.

    Its one line has the ALTER TABLE that mends the table, if there is one.
    """
    present = connection.exec_driver_sql(COLUMNS, {"table": table.name}).all()
    if not present:
        return  # A role without rights on the table sees no column. `try_statement` reports that.
    misfits: list[Misfit] = []
    for found in present:
        misfits += find_misfits(table, found, connection.dialect)
    names = [found.name for found in present]
    for column in table.columns:
        if column.name not in names and str(column) != LEFT_TO_DEFAULT:
            misfits.append(Misfit(f"{column.name} is missing", ""))
    if not misfits:
        return
    line = f"The table {table.name}: {', '.join(misfit.sentence for misfit in misfits)}."
    actions = [misfit.action for misfit in misfits]
    if all(actions):
        line += f" This mends it: ALTER TABLE {table.name} {', '.join(actions)};"
    raise SystemExit(line)


def find_misfits(table: Table, found: Any, dialect: Dialect) -> Iterator[Misfit]:
    """Yield what is wrong with a column.

    Columns of `users` may be required: a sign-up with Better Auth sets them.
    """
    name = found.quoted_name
    column: Any = table.columns.get(found.name)
    is_required = found.is_not_null and found.has_no_default
    not_required = Misfit(f"{name} must not be required", f"ALTER {name} DROP NOT NULL")
    if column is None:
        # Not a column of ours: it stays without a value.
        if is_required and table.name == "tasks":
            yield not_required
        return
    if str(column) == LEFT_TO_DEFAULT:
        if is_required:
            yield Misfit(f"{name} must have a default", f"ALTER {name} SET DEFAULT now()")
        return
    if column.nullable and found.is_not_null and table.name == "tasks":
        # The statements write NULL into it, so a default would not help.
        yield not_required
    wanted = column.type.compile(dialect)
    kind = wanted.partition("(")[0]  # VARCHAR of VARCHAR(200)
    if found.type in FITTING_TYPES.get(kind, (found.type,)):
        if found.length and found.length < (column.type.length or 0):
            yield Misfit(f"{name} must be {wanted}", f"ALTER {name} TYPE {wanted}")
    elif kind == "TIMESTAMP WITH TIME ZONE" and found.type == "timestamp":
        conversion = f"ALTER {name} TYPE {wanted} USING {name} AT TIME ZONE 'UTC'"
        yield Misfit(f"{name} must be {wanted}", conversion)
    else:
        yield Misfit(f"{name} must be {wanted}", "")


def wants_sign_up(error: Any) -> bool:
    """Tell whether CREATE failed because it could not make the user's row.

    The table may require more columns, or the e-mail address may be another user's already. In
    the second case no row is made, which the foreign key of the task then finds out.
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


def wait_on_event_loop(connection: extensions.connection) -> None:
    """Let the event loop run while psycopg2 waits for the server.

    psycopg2 calls this instead of blocking (its "wait callback", made for coroutine libraries).
    A greenlet makes it possible: a function call that can be left in the middle and continued
    later. `greenlet_spawn` calls a function in one; `await_` leaves that call until the event loop
    finds the socket ready, as in SQLAlchemy's asyncio extension. A blocking driver thus needs no
    threads, which would cost a fifth more CPU, and its waiting can be cancelled. Only connecting
    and executing wait.
    """
    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_READ:
            await_(anyio.wait_readable(connection.fileno()))
        else:
            await_(anyio.wait_writable(connection.fileno()))


def connect_in_greenlet(parameters: dict[str, str]) -> extensions.connection:
    """Return a connection without BEGIN and COMMIT, which would each be a round trip."""
    connection = psycopg2.connect(**parameters)
    connection.autocommit = True
    return connection


def execute_in_greenlet(
    connection: extensions.connection, statement: str, values: dict[str, Any]
) -> list[Row]:
    """Run a statement, and return its rows by the names of their columns."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


class Pool:
    """At most `size` connections to the database; one user gets a quarter of them, or one."""

    def __init__(self, size: int) -> None:
        self.parameters: dict[str, str] = {}  # of the database, for libpq; open() sets them
        # The connection used last is used next, for it is likeliest to be alive.
        self.idle: list[extensions.connection] = []
        self.places = asyncio.Semaphore(size)
        self.share_size = max(1, size // 4)  # so that one user's locked row holds up nobody else
        self.shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def open(self, parameters: dict[str, str]) -> None:
        """Use this database from now on.

        The wait callback is the whole process's, so whatever blocks must be done before.
        """
        self.parameters = parameters
        extensions.set_wait_callback(wait_on_event_loop)
        if hasattr(os, "register_at_fork"):
            # If a server forks after its first request, parent and child share the sockets of idle
            # connections, and each would read the other's answers. So the child forgets them. They
            # stay open for the parent: psycopg2 closes a connection only in the process that made
            # it.
            os.register_at_fork(after_in_child=self.idle.clear)

    def share_of(self, user_id: str) -> asyncio.Semaphore:
        """Return a user's share of the places. It exists while a request of the user holds it."""
        share = self.shares.get(user_id)
        if share is None:
            share = asyncio.Semaphore(self.share_size)
            self.shares[user_id] = share
        return share

    async def execute(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement on an idle or a new connection, and return its rows."""
        share = self.share_of(values["user_id"])
        async with share, self.places:
            connection = self.take_idle() or await self.connect()
            try:
                timed = time_settings() + statement
                return await greenlet_spawn(execute_in_greenlet, connection, timed, values)
            except asyncio.CancelledError:
                # `fetch` cancels this at the deadline, before which PostgreSQL should have ended
                # the statement. So nothing arrives any more, on the idle connections either.
                self.close_idle()
                raise
            finally:
                # psycopg2 closes a connection whose wait callback raises: no cancelled one returns.
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

        While the service starts, libpq heeds connect_timeout. With the wait callback it ignores it,
        and would wait for a silent address until the request's deadline. So each address but the
        last gets ADDRESS_TIMEOUT.
        """
        *others, last = await look_up(self.parameters)
        for address in others:
            with suppress(TimeoutError, psycopg2.OperationalError):
                async with asyncio.timeout(ADDRESS_TIMEOUT):
                    return await greenlet_spawn(connect_in_greenlet, self.parameters | address)
        return await greenlet_spawn(connect_in_greenlet, self.parameters | last)


async def look_up(parameters: dict[str, str]) -> list[dict[str, str]]:
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


def time_settings() -> str:
    """Return what goes before a statement, in the same message and round trip.

    It gives PostgreSQL the time that is left; raise TimeoutError if that is nothing. The statements
    of one message are one transaction, so LOCAL settings hold for those that follow, and end with
    the message: a pooler does not hand them on to its next client.
    """
    left = request_deadline.get() - asyncio.get_running_loop().time() - STATEMENT_MARGIN
    milliseconds = int(left * 1000 / TIMEOUT_STEP) * TIMEOUT_STEP
    if milliseconds <= 0:
        raise TimeoutError
    return f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL timezone = 'UTC'; "


async def fetch(statement: str, *, user_id: str, **values: Any) -> list[Row]:
    """Run one of a user's statements in one round trip, and return its rows.

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
