"""Uses the service's pool, forks, and uses it on both sides; the exit status tells whether it held.

Each user's row names the user, so that another user's row cannot pass unnoticed.
"""

import asyncio
import os
import sys

from backend import db
from backend.main import app

CHILDREN = 4
CONNECTIONS = 8  # idle at the time of the fork
ROUNDS = 50
WHO = "SELECT %(user_id)s AS user_id"


async def ask(user_id: str) -> None:
    db.start_deadline()
    rows = await db.fetch(WHO, user_id=user_id)
    assert rows == [{"user_id": user_id}], f"{user_id} was answered {rows}"


async def ask_at_once(process: str) -> None:
    await asyncio.gather(*(ask(f"{process}, user {number}") for number in range(CONNECTIONS)))


async def ask_often(process: str) -> None:
    for _ in range(ROUNDS):
        await ask_at_once(process)


def backends() -> list[int]:
    """Return which processes of PostgreSQL are at the other ends of the idle connections."""
    return sorted(connection.info.backend_pid for connection in db.pool.idle)


def main() -> None:
    assert app is not None  # imported, as gunicorn --preload does, which opens the database
    asyncio.run(ask_at_once("the parent"))
    assert len(db.pool.idle) == CONNECTIONS
    before = backends()
    children = []
    for number in range(CHILDREN):
        child = os.fork()
        if child == 0:
            asyncio.run(ask_often(f"child {number}"))
            sys.exit()
        children.append(child)
    asyncio.run(ask_often("the parent"))
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, f"a child ended with {status}"
    asyncio.run(ask_often("the parent"))
    assert backends() == before, "a child has closed connections of the parent"


if __name__ == "__main__":
    main()
