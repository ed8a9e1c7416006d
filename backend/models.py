"""The two tables, and what requests and answers hold."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field as About, StrictBool, StringConstraints, create_model
from sqlalchemy import DateTime, Index, false, func
from sqlmodel import Field, SQLModel

RULES = {
    "title": "must be text of 1 to 200 characters, not all blank, without NUL",
    "description": "must be null or text of at most 1000 characters, without NUL",
    "completed": "must be true or false",
    "task_id": "must be a whole number from 1 to 2147483647",
    "body": "must be a JSON object, sent as application/json",
}
W = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # what strip takes; \s depends on the language
TITLE = About(strict=True, pattern=rf"^[{W}]*[^{W}\x00]([^\x00]{{0,198}}[^{W}\x00])?[{W}]*$", examples=["Buy milk"])
Title = Annotated[str, StringConstraints(strip_whitespace=True), TITLE]
DESCRIPTION = About(strict=True, pattern=r"^[^\x00]{0,1000}$", examples=["2 litres"])
Description = Annotated[str, DESCRIPTION, AfterValidator(lambda text: text or None)]
ABSENT: Any = Field(default_factory=lambda: None)  # may be left out, but not null as with a plain default of None


class User(SQLModel, table=True):
    __tablename__ = "users"
    id: str = Field(primary_key=True, max_length=255)
    email: str | None
    name: str | None


class TaskPublic(SQLModel):
    id: int = Field(primary_key=True, schema_extra={"examples": [1]})
    user_id: str = Field(foreign_key="users.id", max_length=255, schema_extra={"examples": ["ada"]})
    title: str = Field(max_length=200, schema_extra={"examples": ["Buy milk"]})
    description: str | None = Field(max_length=1000, schema_extra={"examples": ["2 litres"]})
    completed: bool = Field(sa_column_kwargs={"server_default": false()})
    created_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()})
    updated_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()})


class Task(TaskPublic, table=True):
    __tablename__ = "tasks"
    __table_args__ = (Index("ix_tasks_user_id_id", "user_id", "id"),)  # one user's list, in its order


class TaskCreate(SQLModel):
    title: Title
    description: Description | None = None


class TaskCompletion(SQLModel):
    completed: StrictBool = ABSENT


class TaskUpdate(TaskCompletion):
    title: Title = ABSENT
    description: Description | None = None


Problem = create_model("Problem", detail=(str, About(examples=[f"title {RULES['title']}."])))
