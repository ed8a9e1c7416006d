"""The floor: a route that verifies a token with PyJWT, and answers a constant task."""

import os
from datetime import UTC, datetime
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

SECRET = os.environ["BETTER_AUTH_SECRET"]


class Task(BaseModel):
    id: int = 1
    user_id: str = "u1"
    title: str = "Task 1"
    description: str | None = "Milk, eggs and bread"
    completed: bool = False
    created_at: datetime = datetime.now(UTC)
    updated_at: datetime = datetime.now(UTC)


TASK = Task()

app = FastAPI()


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> None:
    try:
        subject = jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    if subject != user_id:
        raise HTTPException(403)


@app.get("/api/{user_id}/tasks/{task_id}", dependencies=[Depends(get_current_user)])
async def answer_constant() -> Task:
    return TASK
