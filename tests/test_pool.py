"""The way to the database: what a request waits for, what it is told, and what it leaves behind."""

import asyncio
import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import psycopg2
import pytest
from psycopg2 import extensions
from sqlalchemy import bindparam, literal
from sqlmodel import col, select

from backend import UnavailableError, db
from backend.models import Task
from tests.harness import Postgres, Proxy

PAUSE = "SELECT pg_sleep(20) AS pause, %(user_id)s AS user_id"
SHORT_PAUSE = "SELECT pg_sleep(0.2) AS pause, %(user_id)s AS user_id"
WHO = "SELECT %(user_id)s AS user_id, pg_backend_pid() AS backend"
# PostgreSQL's own words quote a user's data.
FAIL = """
CREATE FUNCTION fail(state text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'the title hunter2' USING ERRCODE = state, DETAIL = 'hunter2', HINT = 'hunter2';
END $$
"""
MAY_PASS = {
    "08000": "connection exception",
    "08006": "connection failure",
    "25006": "read-only transaction",
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "query cancelled",
    "57P01": "admin shutdown",
    "57P02": "crash shutdown",
    "57P03": "cannot connect now",
}
STAYS = {
    "0A000": "feature not supported",
    "22001": "text too long",
    "22P02": "invalid text representation",
    "23502": "not null violation",
    "23503": "foreign key violation",
    "23505": "unique violation",
    "23514": "check violation",
    "42501": "insufficient privilege",
    "42601": "syntax error",
    "42703": "undefined column",
    "42804": "datatype mismatch",
    "42P01": "undefined table",
    "P0001": "raised by a trigger",
    "XX000": "internal error",
}


@pytest.fixture(scope="module")
def url(database: Postgres) -> str:
    url = database.create_database()
    database.execute(FAIL, url=url)
    return url


@pytest.fixture
def proxy(database: Postgres) -> Iterator[Proxy]:
    with Proxy(database.port) as proxy:
        yield proxy


@pytest.fixture
def pool(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[db.Pool]:
    """The pool of this process, with a database of its own.

    Its times are those of the service; deadline_soon() makes them short where one is to pass.
    """
    pool = db.Pool(db.POOL_SIZE)
    # Not by pool.use(): what it registers for forks could not be undone.
    pool.parameters.update(extensions.parse_dsn(url))
    monkeypatch.setattr(db, "pool", pool)
    yield pool
    pool.close_idle()


SOON = 0.15  # seconds


@contextmanager
def deadline_soon(seconds: float = SOON) -> Iterator[None]:
    """Let the requests that begin meanwhile be given up after some seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "DEADLINE", seconds)
        patch.setattr(db, "STATEMENT_MARGIN", 0)
        patch.setattr(db, "TIMEOUT_STEP", 0.05)
        yield


async def ask(statement: str, user_id: str = "ada", **values: object) -> list[db.Row]:
    """Do what a request does."""
    db.start_deadline()
    return await db.fetch(statement, user_id=user_id, **values)


async def is_unavailable(statement: str = WHO, user_id: str = "ada") -> bool:
    """Return whether a request is told 503.

    An exception that is kept would keep its connection alive, by its traceback, and `connections`
    would count it.
    """
    try:
        await ask(statement, user_id)
    except UnavailableError:
        return True
    return False


@pytest.mark.parametrize(
    ("left", "timeout"),
    [(4.5, 4000), (4.26, 4000), (4.2, 3500), (3.0, 2500), (1.0, 500), (0.76, 500)],
)
def test_a_statement_has_what_is_left_of_the_deadline_in_steps(left, timeout):
    async def settings() -> str:
        db.request_deadline.set(asyncio.get_running_loop().time() + left)
        return db.local_settings()

    expected = f"SET LOCAL statement_timeout = {timeout}; SET LOCAL timezone = 'UTC'; "
    assert asyncio.run(settings()) == expected


@pytest.mark.parametrize("left", [0.7, 0.25, 0, -1])
def test_a_statement_that_has_no_time_left_is_not_sent(left):
    async def settings() -> str:
        db.request_deadline.set(asyncio.get_running_loop().time() + left)
        return db.local_settings()

    with pytest.raises(TimeoutError):
        asyncio.run(settings())


@pytest.mark.usefixtures("pool")
def test_postgresql_ends_a_statement_before_the_deadline_does(monkeypatch):
    async def scenario() -> None:
        before = (await ask(WHO))[0]["backend"]
        # PostgreSQL gets SOON at most, in steps of 50 ms, and the request its whole deadline.
        monkeypatch.setattr(db, "STATEMENT_MARGIN", db.DEADLINE - SOON)
        monkeypatch.setattr(db, "TIMEOUT_STEP", 0.05)
        with pytest.raises(UnavailableError):
            await ask(PAUSE)
        assert (await ask(WHO))[0]["backend"] == before  # the connection was kept

    asyncio.run(scenario())


OWN = col(Task.user_id) == bindparam("user_id")
WRONG_STATEMENTS = {
    "a literal for a parameter": select(Task).where(OWN, col(Task.id) == 5),
    "a literal text": select(Task).where(OWN, col(Task.title) == literal("x")),
    "no owner": select(Task).where(col(Task.id) == bindparam("task_id")),
    "an owner that is a literal": select(Task).where(col(Task.user_id) == "ada"),
    "an owner with a default": select(Task).where(
        col(Task.user_id) == bindparam("user_id", value="ada")
    ),
    "a limit that is a literal": select(Task).where(OWN).limit(5),
}


@pytest.mark.parametrize("statement", WRONG_STATEMENTS.values(), ids=WRONG_STATEMENTS)
def test_a_statement_that_does_not_fit_fails_where_it_is_written(statement):
    with pytest.raises(TypeError):
        db.compile_sql(statement)


def test_a_statement_that_fits_is_text():
    assert "%(user_id)s" in db.compile_sql(select(Task).where(OWN))


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("sqlstate", MAY_PASS, ids=MAY_PASS.values())
def test_what_may_pass_is_unavailable_and_logged_without_data(caplog, sqlstate):
    with pytest.raises(UnavailableError):
        asyncio.run(ask("SELECT fail(%(state)s), %(user_id)s", state=sqlstate))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("database unavailable: ")
    assert "hunter2" not in caplog.text


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("sqlstate", STAYS, ids=STAYS.values())
def test_what_stays_wrong_is_an_error_of_its_own(caplog, sqlstate):
    with pytest.raises(psycopg2.Error) as raised:
        asyncio.run(ask("SELECT fail(%(state)s), %(user_id)s", state=sqlstate))
    assert raised.value.pgcode == sqlstate
    assert caplog.messages == []


def test_a_statement_that_stays_wrong_is_500_and_logged_without_data(api, database, user):
    forbid = "ALTER TABLE tasks ADD CONSTRAINT unwanted CHECK (title <> 'hunter3')"
    database.execute(forbid, url=api.database)
    before = len(api.output())
    answer = api.request("POST", "", user, json={"title": "hunter3"})
    database.execute("ALTER TABLE tasks DROP CONSTRAINT unwanted", url=api.database)
    assert answer.status_code == 500
    assert "Retry-After" not in answer.headers
    log = api.output()[before:]
    assert "statement failed: CheckViolation, table tasks" in log
    assert "routes/tasks.py" in log  # of the traceback
    assert "hunter3" not in log
    assert "hunter3" not in answer.text


def test_a_refused_connection_is_unavailable_and_logged_without_data(pool, caplog):
    pool.parameters.update(port="1", user="hunter2")
    assert asyncio.run(is_unavailable())
    assert caplog.messages == ["database unavailable: OperationalError"]


def test_a_database_that_is_not_there_is_unavailable_and_logged_without_data(pool, caplog):
    pool.parameters.update(dbname="hunter2")
    assert asyncio.run(is_unavailable())
    assert caplog.messages == ["database unavailable: OperationalError"]


def connections() -> list[object]:
    """Return the connection objects of this process."""
    return [thing for thing in gc.get_objects() if type(thing) is extensions.connection]


def sockets(port: int) -> list[object]:
    """Return this process's sockets to a port."""
    found = psutil.Process().net_connections("tcp4")
    return [
        connection for connection in found if connection.raddr and connection.raddr.port == port
    ]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("is_connected", [True, False], ids=["in a statement", "connecting"])
def test_what_was_given_up_is_freed_at_once(pool, proxy, is_connected):
    pool.parameters.update(port=str(proxy.port))
    before = len(connections())

    async def scenario() -> None:
        if is_connected:
            await asyncio.gather(*(ask(WHO, f"user {number}") for number in range(8)))
            assert len(db.pool.idle) == 8
        proxy.silent = True
        waiting = [is_unavailable(user_id=f"user {number}") for number in range(8)]
        with deadline_soon():
            assert all(await asyncio.gather(*waiting))
        assert len(connections()) == before
        assert sockets(proxy.port) == []

    asyncio.run(scenario())
    assert proxy.connections == 8  # Those that were given up were not replaced.


@pytest.mark.parametrize("is_connected", [True, False], ids=["in a statement", "connecting"])
def test_what_was_given_up_is_closed_before_the_answer(pool, proxy, is_connected):
    pool.parameters.update(port=str(proxy.port))

    async def scenario() -> None:
        if is_connected:
            await ask(WHO)
        proxy.silent = True
        with deadline_soon():
            try:
                await ask(WHO)
            except UnavailableError:
                # Its traceback still refers to the connection.
                assert sockets(proxy.port) == []
            else:
                pytest.fail("The proxy is not silent.")

    asyncio.run(scenario())


def test_an_idle_connection_that_fell_silent_takes_the_others_along(pool, proxy):
    pool.parameters.update(port=str(proxy.port))

    async def scenario() -> None:
        await asyncio.gather(*(ask(WHO, f"user {number}") for number in range(4)))
        proxy.silent = True
        with deadline_soon():
            assert await is_unavailable()
        assert db.pool.idle == []

    asyncio.run(scenario())


@pytest.mark.usefixtures("pool")
def test_the_shares_of_users_who_are_gone_are_not_kept():
    async def scenario() -> None:
        for number in range(200):
            await ask(WHO, f"user {number}")

    asyncio.run(scenario())
    assert len(db.pool.shares) == 0
    assert len(db.pool.idle) == 1


@pytest.fixture
def silent_listener(database: Postgres) -> Iterator[socket.socket]:
    """A second address at which the database's port never answers."""
    if sys.platform == "darwin":
        pytest.skip("macOS has no 127.0.0.2")
    with socket.create_server(("127.0.0.2", database.port)) as listener:
        yield listener


def answer_look_ups(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.fixture
def full_listener(silent_listener: socket.socket) -> Iterator[socket.socket]:
    """The same, but it drops the packets of further clients, for its queue is full."""
    silent_listener.listen(0)
    with ExitStack() as fill:
        for _ in range(4):
            client = fill.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(silent_listener.getsockname())
        yield silent_listener


@pytest.mark.parametrize(
    ("listener", "silent"),
    [("silent_listener", 1), ("silent_listener", 2), ("full_listener", 1)],
)
def test_silent_addresses_before_a_good_one_fail_no_request(
    pool, monkeypatch, request, listener, silent
):
    request.getfixturevalue(listener)
    pool.parameters.update(host="two.example")
    answer_look_ups(monkeypatch, *["127.0.0.2"] * silent, "127.0.0.1")

    async def scenario() -> None:
        # At first no connection is idle, so all of these try the silent address before the other.
        first = [is_unavailable(user_id=f"user {number}") for number in range(db.POOL_SIZE)]
        began = time.monotonic()
        with deadline_soon(1.5):
            assert not any(await asyncio.gather(*first))
        assert time.monotonic() - began >= SOON  # They did wait for the silent ones.
        # From now on there are connections: whoever had to make one would find no good address.
        answer_look_ups(monkeypatch, "127.0.0.2")
        second = [is_unavailable(user_id=f"user {number}") for number in range(30)]
        assert not any(await asyncio.gather(*second))

    asyncio.run(scenario())


def test_two_good_addresses_are_tried_in_turn_when_one_refuses(pool, monkeypatch):
    pool.parameters.update(host="two.example")
    answer_look_ups(monkeypatch, "127.0.0.3", "127.0.0.1")  # nothing listens on the first
    assert not asyncio.run(is_unavailable())


def test_a_slow_first_address_is_waited_for(pool, database, monkeypatch):
    with Proxy(database.port, delay=0.1) as far_away:  # Connecting takes several round trips.
        pool.parameters.update(host="two.example", port=str(far_away.port))
        answer_look_ups(monkeypatch, "127.0.0.1", "127.0.0.3")  # nothing listens on the second
        assert not asyncio.run(is_unavailable())


def test_an_address_that_is_given_is_not_looked_up(pool, monkeypatch):
    pool.parameters.update(host="two.example", hostaddr="127.0.0.1")
    answer_look_ups(monkeypatch, "127.0.0.3")  # nothing listens there
    assert not asyncio.run(is_unavailable())


def test_a_look_up_that_fails_is_unavailable(pool, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    pool.parameters.update(host="two.example")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert asyncio.run(is_unavailable())
    assert caplog.messages == ["database unavailable: gaierror"]


def test_a_slow_look_up_holds_up_nobody_else(pool, monkeypatch):
    looking_up = threading.Event()
    answered = threading.Event()

    def be_slow(*_: object, **__: object) -> None:
        looking_up.set()
        answered.wait(10)
        raise socket.gaierror

    async def scenario() -> None:
        await ask(WHO)
        connection = db.pool.idle.pop()
        # Eve has to connect, and so to look up the host. Only her deadline is soon.
        pool.parameters.update(host="two.example")
        monkeypatch.setattr(socket, "getaddrinfo", be_slow)
        began = time.monotonic()
        with deadline_soon():
            waiting = asyncio.create_task(is_unavailable(user_id="eve"))
            await asyncio.to_thread(looking_up.wait, 10)
        # Ada has the connection that was idle, and is answered meanwhile.
        db.pool.idle.append(connection)
        for _ in range(50):
            await ask(WHO)
        assert await waiting
        assert SOON <= time.monotonic() - began < 5
        answered.set()

    asyncio.run(scenario())


def test_keys_and_database_share_one_deadline(pool, proxy, monkeypatch):
    pool.parameters.update(port=str(proxy.port))
    monkeypatch.setattr(db, "DEADLINE", 0.5)
    proxy.silent = True

    async def scenario() -> None:
        began = time.monotonic()
        db.start_deadline()
        await asyncio.sleep(0.4)  # for which the keys were waited for
        with pytest.raises(UnavailableError):
            await db.fetch(WHO, user_id="ada")
        assert time.monotonic() - began < 0.8

    asyncio.run(scenario())


@pytest.mark.usefixtures("pool")
def test_one_user_leaves_three_quarters_of_the_places_to_the_others():
    async def scenario() -> None:
        greedy = [asyncio.create_task(is_unavailable(PAUSE, "greedy")) for _ in range(60)]
        await asyncio.sleep(0.1)
        free = db.POOL_SIZE - db.POOL_SIZE // 4
        others = [ask(SHORT_PAUSE, f"user {number}") for number in range(free)]
        await asyncio.gather(*others)
        assert len(db.pool.idle) == free  # Each had a connection at the same time.
        with deadline_soon():
            assert await is_unavailable(user_id="greedy")  # for want of a place
        assert not any(task.done() for task in greedy)
        for task in greedy:
            task.cancel()
        await asyncio.wait(greedy)

    asyncio.run(scenario())
