"""Two floors: a route that does nothing, and one that verifies a token and answers a constant."""

import os
from datetime import UTC, datetime
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

SECRET = os.environ["BETTER_AUTH_SECRET"]


class Task(BaseModel):
    id: int
    user_id: str
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime


TASK = Task(
    id=1,
    user_id="u1",
    title="Task 1",
    description="Milk, eggs and bread",
    completed=False,
    created_at=datetime.now(UTC),
    updated_at=datetime.now(UTC),
)

empty = FastAPI()
token = FastAPI()


@empty.get("/api/{user_id}/tasks/{task_id}")
async def answer_nothing() -> None:
    return None


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> None:
    try:
        subject = jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    if subject != user_id:
        raise HTTPException(403)


@token.get("/api/{user_id}/tasks/{task_id}", dependencies=[Depends(get_current_user)])
async def answer_constant() -> Task:
    return TASK
