"""The database: `fetch`, the connections that it uses, and the start."""

import asyncio
import logging
import re
from socket import SOCK_STREAM
from typing import Any

import anyio
import psycopg2
from psycopg2 import errors, extensions
from sqlalchemy import Select, create_engine, exc, select
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from backend import ROOT, UnavailableError, embedded, settings
from backend.models import Task

Row = dict[str, Any]

# Seconds. A request waits for a free connection, and then for connecting and the answer: 5 at most.
# PostgreSQL gives up a statement one second before the service does.
FREE_CONNECTION_TIMEOUT = 1
ANSWER_TIMEOUT = 4
STATEMENT_TIMEOUT = 3
# They are sent before each statement, in the same message. PostgreSQL runs the statements of one
# message in one transaction, and LOCAL settings end with it: a pooler hands them on to nobody.
LOCAL_SETTINGS = (
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}s'; SET LOCAL timezone = 'UTC'; "
)
CONNECTION_DEFAULTS = {
    "connect_timeout": "4",  # seconds, at the start only
    # Milliseconds, on Linux. A server that does not acknowledge what was sent for so long is given
    # up, and while connecting, libpq tries the host's next address.
    "tcp_user_timeout": "1500",
    "keepalives_idle": "60",  # seconds; so no network forgets a connection
    "client_encoding": "utf8",
}
EMBEDDED = ROOT / ".postgres"  # where the data of the embedded database is

parameters: dict[str, str] = {}  # of the database, as libpq names them; start() sets them
idle: list[extensions.connection] = []  # The last one was used last, and is likeliest to be alive.
places = asyncio.Semaphore(settings.database_pool_size)
# SQLAlchemy's, for the start and for compiling. It connects when it is first used.
engine = create_engine(
    "postgresql+psycopg2://", creator=lambda: psycopg2.connect(**parameters), poolclass=NullPool
)
logger = logging.getLogger(__name__)


async def fetch(statement: str, *, user_id: str, **values: Any) -> list[Row]:
    """Run a user's SELECT, or statement with RETURNING, in one round trip, and return its rows.

    The statement has to name `user_id`, which stands apart so that no call leaves it out.
    Raise UnavailableError if the database does not answer in time, and psycopg2's error if it
    refuses the statement. What was sent is never sent again.
    """
    try:
        async with asyncio.timeout(FREE_CONNECTION_TIMEOUT):
            await places.acquire()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await run_statement(statement, values | {"user_id": user_id})
        finally:
            places.release()
    except (
        psycopg2.OperationalError,  # such as a lost connection, or a statement that was cancelled
        psycopg2.InterfaceError,  # such as a connection that is closed already
        errors.ReadOnlySqlTransaction,  # The server has become a standby.
        OSError,  # such as TimeoutError, and a host that is not found
    ) as error:
        logger.warning("database unavailable: %s", type(error).__name__)
        raise UnavailableError from None


async def run_statement(statement: str, values: dict[str, Any]) -> list[Row]:
    """Run a statement on an idle or a new connection, and return its rows."""
    connection = take_idle() or await connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(LOCAL_SETTINGS + statement, values)
            await wait_for_answer(connection)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        if connection.closed:
            # Probably the server or the network has failed. To drop the others closes them.
            idle.clear()
        else:
            idle.append(connection)


def take_idle() -> extensions.connection | None:
    """Return an idle connection that the server has kept open, if there is one.

    A poll reads what has arrived, and sends nothing. A server that ends a connection says why and
    then closes it: the first poll may read the reason, and the second one finds the end.
    """
    while idle:
        connection = idle.pop()
        try:
            connection.poll()
            connection.poll()
        except psycopg2.Error:
            continue
        return connection
    return None


async def connect() -> extensions.connection:
    """Return a new connection, to the first address of the host that answers.

    An asynchronous one never sends BEGIN and COMMIT, which would each be a round trip.
    """
    host = parameters.get("host", "")
    addresses = {}
    if re.fullmatch("[^/,]+", host):  # no socket and no list of hosts, which are left to libpq
        found = await anyio.getaddrinfo(host, None, type=SOCK_STREAM)  # libpq's own would block.
        hostaddr = ",".join(address[0] for *_, address in found)
        # libpq wants a host for each address; the server's certificate has to name it.
        addresses = {"hostaddr": hostaddr, "host": ",".join([host] * len(found))}
    connection = psycopg2.connect(**(parameters | addresses), async_=True)
    await wait_for_answer(connection)
    return connection


async def wait_for_answer(connection: extensions.connection) -> None:
    """Wait on the event loop until psycopg2 has connected, or has the answer to a statement.

    psycopg2 is no asyncio driver, but has asynchronous connections, whose `poll` says for what
    their socket has to wait. (See "Asynchronous support" in its documentation.) Threads would cost
    at least a quarter more CPU.
    """
    try:
        while (state := connection.poll()) != extensions.POLL_OK:
            if state == extensions.POLL_READ:
                await anyio.wait_readable(connection.fileno())
            else:
                await anyio.wait_writable(connection.fileno())
    except psycopg2.Error:
        raise  # PostgreSQL has refused the message, and is done with it.
    except BaseException:
        connection.close()  # The answer may still arrive, and must not be taken for another's.
        raise


def compile_sql(statement: Select[Any]) -> str:
    """Return a statement's SQL with %(name)s for each parameter, as psycopg2 takes it."""
    return str(statement.compile(engine))


def start() -> str:
    """Make the tables that are missing, and return which database is used, for the log.

    Raise SystemExit with one line if the database does not answer or its tables do not fit.
    """
    # These numbers are PostgreSQL's for the types timestamp, timestamptz and boolean.
    extensions.register_type(extensions.new_type((1114, 1184), "TIME", read_time))
    extensions.register_type(extensions.new_type((16,), "BOOLEAN", read_boolean))
    if settings.database_url == "embedded":
        database = embedded.start(EMBEDDED)
        name = f"embedded in {EMBEDDED}"
    else:
        database = extensions.parse_dsn(settings.database_url)
        name = f"{database.get('host')}/{database.get('dbname')}"
    parameters.update(CONNECTION_DEFAULTS | database)
    try:
        with engine.begin() as connection:
            # Of several services that start at once, one makes the tables. (28880 is any number.)
            connection.exec_driver_sql(
                "SET LOCAL lock_timeout = '7s'; SELECT pg_advisory_xact_lock(28880)"
            )
            SQLModel.metadata.create_all(connection)
            # Tables that others made must have the columns that the statements name. The created_at
            # of users is none of them.
            connection.exec_driver_sql("SELECT id, email, name FROM users LIMIT 0")
            connection.execute(select(Task).limit(0))
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise SystemExit(f"The database cannot be used: {reason}") from None
    return name


def read_time(value: str | None, _cursor: Any) -> str | None:
    """Return a time as JSON has it (RFC 3339, section 5.6); one without a zone counts as UTC."""
    return value and f"{value.removesuffix('+00').replace(' ', 'T')}Z"


def read_boolean(value: str | None, _cursor: Any) -> bool:
    """Return a boolean; NULL, which tables that others made may have in `completed`, is false."""
    return value == "t"
