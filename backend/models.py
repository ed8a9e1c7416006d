"""The two tables, and what requests and answers look like."""

from datetime import datetime
from typing import Annotated

from pydantic import StrictBool, StringConstraints
from sqlalchemy import DateTime, Index, false, func
from sqlmodel import Field, SQLModel

NOW = {"server_default": func.now()}


class User(SQLModel, table=True):
    """Who has created a task, as the token told."""

    __tablename__ = "users"

    id: str = Field(primary_key=True, max_length=255)
    email: str | None
    name: str | None


class TaskPublic(SQLModel):
    """A task, as it stands in the table and in every answer."""

    id: int = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id", max_length=255)
    title: str = Field(max_length=200)
    description: str | None = Field(max_length=1000)
    completed: bool = Field(sa_column_kwargs={"server_default": false()})
    created_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs=NOW)
    updated_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs=NOW)


class Task(TaskPublic, table=True):
    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_user_id_id", "user_id", "id"),)  # the list, in its order


# Code points, as PostgreSQL counts them; NUL is the one character its text cannot hold.
Title = Annotated[
    str, StringConstraints(strict=True, strip_whitespace=True, pattern=r"^\s*[^\s\x00]([^\x00]{0,198}[^\s\x00])?\s*$")
]
Description = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]{0,1000}$")]
PATTERN_ERRORS = {
    "title": "must have 1 to 200 characters, not only blanks, and no NUL",
    "description": "must have at most 1000 characters, and no NUL",
}
# A field that may be absent, but not null: a plain default of None would allow null in the schema.
ABSENT = Field(default_factory=lambda: None)


class TaskCreate(SQLModel):
    title: Title
    description: Description | None = None


class TaskUpdate(SQLModel):
    """Only the fields that were sent change."""

    title: Title = ABSENT
    description: Description | None = None
    completed: StrictBool = ABSENT


class TaskCompletion(SQLModel):
    """Sets `completed`; without it the task is toggled."""

    completed: StrictBool = ABSENT


class Problem(SQLModel):
    """The body of every error."""

    detail: str
