"""The same API by the book, after the tutorials of FastAPI and SQLModel, at its best settings.

The settings are those that gained throughput, each measured alone: a connection for each of the 40
threads in which FastAPI runs such routes, no ping before a connection is used, and no reading of a
row again after it was written. Each route opens its session: one by dependency costs further turns
in threads.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import StringConstraints
from sqlalchemy import DateTime
from sqlmodel import Field, Session, SQLModel, col, create_engine, select

SECRET = os.environ["BETTER_AUTH_SECRET"]
FRONTEND = os.environ["BETTER_AUTH_URL"]
URL = os.environ["NEON_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://")

engine = create_engine(URL, pool_size=40, max_overflow=0)
keys = jwt.PyJWKClient(os.environ["BETTER_AUTH_JWKS_URL"])

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Description = Annotated[str, StringConstraints(max_length=1000)]


def now() -> datetime:
    return datetime.now(UTC)


class User(SQLModel, table=True):
    __tablename__ = "users"
    id: str = Field(primary_key=True)
    email: str | None = None
    name: str | None = None


class Task(SQLModel, table=True):
    __tablename__ = "tasks"
    id: int | None = Field(default=None, primary_key=True)
    user_id: str = Field(foreign_key="users.id", index=True)
    title: str
    description: str | None = None
    completed: bool = False
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    updated_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))


class TaskPublic(SQLModel):
    id: int
    user_id: str
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime


class TaskCreate(SQLModel):
    title: Title
    description: Description | None = None


class TaskUpdate(SQLModel):
    title: Title | None = None
    description: Description | None = None
    completed: bool | None = None


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> User:
    encoded = credentials.credentials
    try:
        if jwt.get_unverified_header(encoded)["alg"] == "EdDSA":
            key = keys.get_signing_key_from_jwt(encoded)
            claims = jwt.decode(
                encoded, key, algorithms=["EdDSA"], issuer=FRONTEND, audience=FRONTEND
            )
        else:
            claims = jwt.decode(encoded, SECRET, algorithms=["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401, "The token is invalid.", {"WWW-Authenticate": "Bearer"}) from None
    if claims.get("sub") != user_id:
        raise HTTPException(403, "The token is for another user.")
    return User(id=user_id, email=claims.get("email"), name=claims.get("name"))


CurrentUser = Annotated[User, Depends(get_current_user)]

SQLModel.metadata.create_all(engine)
app = FastAPI()


@app.exception_handler(RequestValidationError)
def refuse_input(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The input is invalid."}, 400)


def own_task(session: Session, user: User, task_id: int) -> Task:
    task = session.exec(select(Task).where(Task.id == task_id, Task.user_id == user.id)).first()
    if task is None:
        raise HTTPException(404, "You have no such task.")
    return task


def save(session: Session, task: Task) -> Task:
    session.add(task)
    session.commit()
    return task


@app.get("/api/{user_id}/tasks", response_model=list[TaskPublic])
def list_tasks(user: CurrentUser) -> Sequence[Task]:
    with Session(engine, expire_on_commit=False) as session:
        return session.exec(
            select(Task).where(Task.user_id == user.id).order_by(col(Task.id).desc())
        ).all()


@app.post("/api/{user_id}/tasks", status_code=201, response_model=TaskPublic)
def create_task(user: CurrentUser, body: TaskCreate) -> Any:
    with Session(engine, expire_on_commit=False) as session:
        if session.get(User, user.id) is None:
            session.add(user)
            session.flush()  # the task refers to it
        return save(session, Task(user_id=user.id, **body.model_dump()))


@app.get("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
def read_task(user: CurrentUser, task_id: int) -> Task:
    with Session(engine, expire_on_commit=False) as session:
        return own_task(session, user, task_id)


@app.put("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
def update_task(user: CurrentUser, task_id: int, body: TaskUpdate) -> Task:
    with Session(engine, expire_on_commit=False) as session:
        task = own_task(session, user, task_id)
        task.sqlmodel_update(body.model_dump(exclude_unset=True), update={"updated_at": now()})
        return save(session, task)


@app.patch("/api/{user_id}/tasks/{task_id}/complete", response_model=TaskPublic)
def toggle_task(user: CurrentUser, task_id: int) -> Task:
    with Session(engine, expire_on_commit=False) as session:
        task = own_task(session, user, task_id)
        task.sqlmodel_update({"completed": not task.completed, "updated_at": now()})
        return save(session, task)


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204)
def delete_task(user: CurrentUser, task_id: int) -> None:
    with Session(engine, expire_on_commit=False) as session:
        session.delete(own_task(session, user, task_id))
        session.commit()
