"""The two tables, and what requests and answers hold."""

from datetime import datetime
from typing import Annotated

from pydantic import MISSING, StrictBool, StringConstraints
from sqlalchemy import BigInteger, DateTime, Index, func
from sqlmodel import Field, SQLModel

NO_NUL = r"^[^\x00]*$"  # PostgreSQL's text takes every other character.
UTC = DateTime(timezone=True)


class User(SQLModel, table=True):
    """Who has tasks. A row is made with a user's first one, and never changed."""

    __tablename__ = "users"

    id: str = Field(primary_key=True, max_length=255)
    email: str | None
    name: str | None
    created_at: datetime = Field(sa_type=UTC, sa_column_kwargs={"server_default": func.now()})


class Task(SQLModel, table=True):
    """A task of one user, in its table and in answers."""

    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_user_id_id", "user_id", "id"),)  # a user's list, in order

    id: int = Field(primary_key=True, sa_type=BigInteger)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", max_length=255)
    title: str = Field(max_length=200)
    description: str | None = Field(max_length=1000)
    completed: bool
    created_at: datetime = Field(sa_type=UTC)
    updated_at: datetime = Field(sa_type=UTC)


Title = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL)
]
Description = Annotated[str, StringConstraints(max_length=1000, pattern=NO_NUL)]


class TaskCreate(SQLModel):
    """A new task."""

    title: Title
    description: Description | None = None


# A field that was not sent is pydantic's MISSING, and model_dump() leaves it out. None cannot mean
# that, because a client's null becomes None: it clears a description, and is refused as a title.
class TaskUpdate(SQLModel):
    """The fields of a task that are to change; only the description may be null."""

    title: Title | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    completed: StrictBool | MISSING = MISSING


class Problem(SQLModel):
    """Why a request has failed, in one sentence."""

    detail: str
