"""Cancels requests at random moments, within the process; the exit status tells whether all held.

It prints how many requests there were, and how many of them it has cancelled.
"""

import asyncio
import random
import time

import httpx
import jwt
import psutil

from backend import db, settings
from backend.main import app

USERS = 8  # at once, so that some wait for one of the four connections
ROUNDS = 75
LONGEST = 0.1  # seconds until a request is cancelled; one that has to connect takes 0.05

chance = random.Random(1)


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as client:
        users = [f"user-{number}" for number in range(USERS)]
        await asyncio.gather(*(send(client, user, "POST") for user in users))
        cancelled = sum(await asyncio.gather(*(cancel_some(client, user) for user in users)))
        await asyncio.gather(*(send(client, user, "GET") for user in users))
    # Nothing is in flight: no connection is left but those of the pool, and all places are free.
    assert len(psutil.Process().net_connections("tcp")) <= settings.database_pool_size
    async with asyncio.timeout(1):
        for _ in range(settings.database_pool_size):
            await db.places.acquire()
    print(USERS * ROUNDS, cancelled)


async def cancel_some(client: httpx.AsyncClient, user: str) -> int:
    """Read again and again, cancel what is not answered in time, and return how often."""
    cancelled = 0
    for _ in range(ROUNDS):
        try:
            await asyncio.wait_for(send(client, user, "GET"), chance.uniform(0, LONGEST))
        except TimeoutError:
            cancelled += 1
    return cancelled


async def send(client: httpx.AsyncClient, user: str, method: str) -> None:
    """Make the user's one task, or list it: the title names the user."""
    claims = {"sub": user, "exp": int(time.time()) + 60}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, settings.better_auth_secret)}"}
    body = {"title": user} if method == "POST" else None
    answer = await client.request(method, f"/api/{user}/tasks", json=body, headers=headers)
    assert answer.is_success, answer.text
    if method == "GET":
        assert [(task["user_id"], task["title"]) for task in answer.json()] == [(user, user)]


asyncio.run(main())
