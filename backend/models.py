"""The two tables, what requests and answers hold, and how errors are documented."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import MISSING, AfterValidator, StrictBool, StringConstraints
from sqlalchemy import BigInteger, DateTime, Index, false, func
from sqlmodel import Field, SQLModel

MAX_TASK_ID = 2**53 - 1  # what JavaScript counts exactly

# What a client is told about a field that is not valid.
RULES = {
    "title": "title must be text of 1 to 200 characters, not all blank, without NUL.",
    "description": "description must be null or text of at most 1000 characters, without NUL.",
    "completed": "completed must be true or false.",
    "task_id": f"task_id must be a whole number from 1 to {MAX_TASK_ID}.",
    "status": "status must be all, pending or completed.",
    "sort": "sort must be created or title.",
    "body": "body must be a JSON object, sent as application/json.",
}


class User(SQLModel, table=True):
    """Who has tasks. A row is made with a user's first one, and never changed."""

    __tablename__ = "users"

    id: str = Field(primary_key=True, max_length=255)
    email: str | None = Field(default=None, max_length=255)
    name: str | None = Field(default=None, max_length=255)
    created_at: datetime = Field(
        sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()}
    )


class Task(SQLModel, table=True):
    """A task of one user."""

    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_user_id_id", "user_id", "id"),)  # a user's list, in order

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    user_id: str = Field(foreign_key="users.id", max_length=255)
    title: str = Field(max_length=200)
    description: str | None = Field(default=None, max_length=1000)
    completed: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    created_at: datetime = Field(
        sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()}
    )
    updated_at: datetime = Field(
        sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()}
    )


class TaskPublic(SQLModel):
    """A task as it is answered."""

    id: int = Field(schema_extra={"examples": [1]})
    user_id: str = Field(schema_extra={"examples": ["ada"]})
    title: str = Field(schema_extra={"examples": ["Buy milk"]})
    description: str | None = Field(schema_extra={"examples": ["2 litres"]})
    completed: bool
    created_at: datetime
    updated_at: datetime


def none_if_empty(text: str) -> str | None:
    return text or None


# No NUL, and not all blank. Stripping and min_length refuse a blank title already, but clients read
# the pattern, in the OpenAPI document. It spells out Unicode's white space: JavaScript's \s is
# another set.
BLANK = r"\t-\r\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_BLANK = rf"^[^\x00]*[^{BLANK}\x00][^\x00]*$"

Title = Annotated[
    str,
    StringConstraints(
        strict=True, strip_whitespace=True, min_length=1, max_length=200, pattern=NOT_BLANK
    ),
    Field(schema_extra={"examples": ["Buy milk"]}),
]
Description = Annotated[
    str,
    StringConstraints(strict=True, max_length=1000, pattern=r"^[^\x00]*$"),
    AfterValidator(none_if_empty),
    Field(schema_extra={"examples": ["2 litres"]}),
]


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


class TaskCompletion(SQLModel):
    """Whether a task is to be completed."""

    completed: StrictBool | MISSING = MISSING


class Health(SQLModel):
    """The service runs."""

    status: Literal["ok"] = "ok"


class Problem(SQLModel):
    """Why a request has failed, in one sentence."""

    detail: str


# For each documented status of a failure: when a route answers it, and an example of its sentence.
PROBLEMS = {
    400: ("The request is not valid.", RULES["title"]),
    401: ("The token is missing, expired or not genuine.", "The token has expired."),
    403: ("The path is another user's.", "The token is another user's."),
    404: ("The user has no such task.", "You have no such task."),
    409: (
        "The user has as many tasks as one may have, or has to sign up first.",
        "You have 10000 tasks already, which is the most.",
    ),
    413: ("The body is too large.", "The body is larger than 65536 bytes."),
    503: (
        "The database or the keys are away; try again after `Retry-After` seconds.",
        "The database or the sign-in keys are unavailable.",
    ),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these answers, as FastAPI's `responses` wants it."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        description, example = PROBLEMS[status]
        content = {"application/json": {"example": {"detail": example}}}
        documented[status] = {"model": Problem, "description": description, "content": content}
    return documented
