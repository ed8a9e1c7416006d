"""The statements, each with its owner, and the six routes."""

import logging
from typing import Annotated, Any, Literal

import psycopg2
from fastapi import APIRouter, HTTPException, Path, Query, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from pydantic_core import to_json
from sqlalchemy import any_, bindparam, case, delete, func, not_, text, update
from sqlmodel import col, select

from backend import read_number
from backend.db import Row, compile_sql, fetch, wants_sign_up
from backend.dependencies import CurrentUser
from backend.models import (
    MAX_TASK_ID,
    Task,
    TaskCompletion,
    TaskCreate,
    TaskPublic,
    TaskUpdate,
    problems,
)

MAX_TASKS = read_number("MAX_TASKS_PER_USER", default=10_000, most=1_000_000)

logger = logging.getLogger(__name__)


def as_json_time(column: str) -> str:
    """Return SQL for a column's time as pydantic writes it: 12:00:00Z, not 12:00:00.000000Z.

    Its Z is true because `fetch` sets the time zone to UTC.
    """
    return f"""replace(to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')"""


def as_json_array(select_tasks: str) -> str:
    """Return a statement with which PostgreSQL itself writes the selected tasks as one JSON text.

    Making the JSON of rows here would block the event loop ten times as long. json_agg keeps the
    order of the rows.
    """
    return f"""
        SELECT coalesce(json_agg(row_to_json(task)), '[]')::text AS tasks
        FROM (
            SELECT
                id,
                user_id,
                title,
                description,
                completed,
                {as_json_time("created_at")} AS created_at,
                {as_json_time("updated_at")} AS updated_at
            FROM ({select_tasks}) AS own_task
        ) AS task
    """  # noqa: S608 - `select_tasks` is a statement of this file


# The SQL of each statement, compiled once. The routes give the `sub` of a verified token for
# `user_id`, never another value of the request.
# `completed_values` decides whether a list has all tasks, the pending or the completed ones.
OWN_TASKS = select(Task).where(
    col(Task.user_id) == bindparam("user_id"),
    col(Task.completed) == any_(bindparam("completed_values")),
)
LIST = as_json_array(compile_sql(OWN_TASKS.order_by(col(Task.id).desc())))
LIST_BY_TITLE = as_json_array(
    compile_sql(OWN_TASKS.order_by(func.lower(Task.title), col(Task.id).desc()))
)
READ = compile_sql(
    select(Task).where(
        col(Task.user_id) == bindparam("user_id"),
        col(Task.id) == bindparam("task_id"),
    )
)
# A user's first task also makes the user's row, in the part named owner. PostgreSQL runs that part
# although nothing reads from it. The task's foreign key is checked at the very end.
# - WHERE NOT EXISTS: A user who has a row needs no other. ON CONFLICT alone fails if `users` is
#   Better Auth's table: that requires further columns, and PostgreSQL refuses a row without them
#   before it looks for a conflict.
# - ON CONFLICT DO NOTHING: Another request may be making the same row at this moment. Or the e-mail
#   address is another user's: then no row is made, and the foreign key fails.
CREATE = compile_sql(
    text("""
        WITH owner AS (
            INSERT INTO users (id, email, name)
            SELECT :user_id, :email, :name
            WHERE NOT EXISTS (SELECT FROM users WHERE id = :user_id)
            ON CONFLICT DO NOTHING
        )
        INSERT INTO tasks (user_id, title, description, completed, created_at, updated_at)
        SELECT :user_id, :title, :description, false, now(), now()
        WHERE (SELECT count(*) FROM tasks WHERE user_id = :user_id) < :max_tasks
        RETURNING id, user_id, title, description, completed, created_at, updated_at
    """)
)
# Parameters in values() cannot have the names of columns, so they are called new_...
UPDATE = compile_sql(
    update(Task)
    .where(
        col(Task.user_id) == bindparam("user_id"),
        col(Task.id) == bindparam("task_id"),
    )
    .values(
        title=func.coalesce(bindparam("new_title"), Task.title),
        description=case(
            (bindparam("has_description"), bindparam("new_description")),
            else_=Task.description,
        ),
        completed=func.coalesce(bindparam("new_completed"), Task.completed),
        updated_at=func.now(),
    )
    .returning(Task)
)
TOGGLE = compile_sql(
    update(Task)
    .where(
        col(Task.user_id) == bindparam("user_id"),
        col(Task.id) == bindparam("task_id"),
    )
    .values(
        completed=func.coalesce(bindparam("new_completed"), not_(col(Task.completed))),
        updated_at=func.now(),
    )
    .returning(Task)
)
DELETE = compile_sql(
    delete(Task)
    .where(
        col(Task.user_id) == bindparam("user_id"),
        col(Task.id) == bindparam("task_id"),
    )
    .returning(col(Task.id))
)

# At the start, prepare_tables in db.py tries these statements on tables that exist, with the values
# of TRIAL, and undoes them. Title and description are as long as they may be, so that a table that
# wants shorter ones is found out.
STATEMENTS = [LIST, LIST_BY_TITLE, READ, CREATE, UPDATE, TOGGLE, DELETE]
TRIAL = {
    "user_id": "\n" * 255,  # no user's: read_identity in auth/jwt.py refuses line breaks
    "task_id": 0,
    "completed_values": [True],
    "email": None,
    "name": None,
    "title": "x" * 200,
    "description": "x" * 1000,
    "max_tasks": 1,
    "new_title": None,
    "has_description": False,
    "new_description": None,
    "new_completed": None,
}

COMPLETED_VALUES = {"all": [False, True], "pending": [False], "completed": [True]}
NO_SUCH_TASK = "You have no such task."
TOO_MANY_TASKS = f"You have {MAX_TASKS} tasks already, which is the most."
NOT_SIGNED_UP = "You have no row in the table users: sign up, with an e-mail address of your own."


def only_digits(given: str) -> str:
    """Return text of digits only; refuse 1_0 and +1, which pydantic would take for numbers."""
    if not given.isdecimal():
        raise ValueError
    return given


TaskId = Annotated[
    int,
    Path(ge=1, le=MAX_TASK_ID, description="The task's id.", examples=[1]),
    BeforeValidator(only_digits),
]
Status = Annotated[
    Literal["all", "pending", "completed"], Query(description="Which tasks to list.")
]
Sort = Annotated[
    Literal["created", "title"],
    Query(description="By creation, newest first, or by title from A to Z."),
]


def operation_id(route: APIRoute) -> str:
    """Name an operation as its function, for client generators make function names of it."""
    return route.name


# The docstrings of the routes describe them in the OpenAPI document.
router = APIRouter(
    prefix="/api/{user_id}/tasks",
    tags=["tasks"],
    responses=problems(400, 401, 403, 503),
    generate_unique_id_function=operation_id,
)


async def fetch_task(statement: str, **values: Any) -> Row:
    """Return the row of a statement about one task, or raise 404 if there is none."""
    rows = await fetch(statement, **values)
    if not rows:
        raise HTTPException(404, NO_SUCH_TASK)
    return rows[0]


def answer(task: Row, status_code: int = 200) -> Response:
    """Answer with a row as PostgreSQL gave it.

    The routes name a response_model for the document only: to check again what the table already
    guarantees would be work for nothing.
    """
    return Response(to_json(task), status_code, media_type="application/json")


@router.get("/", include_in_schema=False)
@router.get("", response_model=list[TaskPublic], summary="List the tasks")
async def list_tasks(user: CurrentUser, status: Status = "all", sort: Sort = "created") -> Response:
    """The user's own tasks as a bare array, empty for a user who has none."""
    rows = await fetch(
        LIST_BY_TITLE if sort == "title" else LIST,
        user_id=user.id,
        completed_values=COMPLETED_VALUES[status],
    )
    return Response(rows[0]["tasks"], media_type="application/json")


@router.post("/", include_in_schema=False)
@router.post(
    "",
    response_model=TaskPublic,
    status_code=201,
    responses=problems(409, 413),
    summary="Create a task",
)
async def create_task(user: CurrentUser, body: TaskCreate) -> Response:
    """Other fields than title and description are ignored."""
    try:
        rows = await fetch(
            CREATE,
            user_id=user.id,
            email=user.email,
            name=user.name,
            title=body.title,
            description=body.description,
            max_tasks=MAX_TASKS,
        )
    except psycopg2.IntegrityError as error:
        if not wants_sign_up(error):
            raise
        raise HTTPException(409, NOT_SIGNED_UP) from None
    if not rows:
        raise HTTPException(409, TOO_MANY_TASKS)
    logger.info("task created: user %s, task %d", user.id, rows[0]["id"])
    return answer(rows[0], 201)


@router.get("/{task_id}", response_model=TaskPublic, responses=problems(404), summary="Read a task")
async def read_task(user: CurrentUser, task_id: TaskId) -> Response:
    """One of the user's own tasks."""
    return answer(await fetch_task(READ, user_id=user.id, task_id=task_id))


@router.put(
    "/{task_id}",
    response_model=TaskPublic,
    responses=problems(404, 413),
    summary="Change a task",
)
async def update_task(user: CurrentUser, task_id: TaskId, body: TaskUpdate) -> Response:
    """Only the fields that are sent change; null or empty text clears a description."""
    changes = body.model_dump()  # leaves out what is MISSING: the fields that were not sent
    task = await fetch_task(
        UPDATE,
        user_id=user.id,
        task_id=task_id,
        new_title=changes.get("title"),
        has_description="description" in changes,
        new_description=changes.get("description"),
        new_completed=changes.get("completed"),
    )
    logger.info("task updated: user %s, task %d", user.id, task_id)
    return answer(task)


@router.patch(
    "/{task_id}/complete",
    response_model=TaskPublic,
    responses=problems(404, 413),
    summary="Complete or reopen a task",
)
async def toggle_task(
    user: CurrentUser, task_id: TaskId, body: TaskCompletion | None = None
) -> Response:
    """Without a body it toggles; with `completed` it sets, however often it is sent."""
    changes = body.model_dump() if body is not None else {}
    task = await fetch_task(
        TOGGLE, user_id=user.id, task_id=task_id, new_completed=changes.get("completed")
    )
    change = "completed" if task["completed"] else "reopened"
    logger.info("task %s: user %s, task %d", change, user.id, task_id)
    return answer(task)


@router.delete("/{task_id}", status_code=204, responses=problems(404), summary="Delete a task")
async def delete_task(user: CurrentUser, task_id: TaskId) -> None:
    """Deletes it for good."""
    await fetch_task(DELETE, user_id=user.id, task_id=task_id)
    logger.info("task deleted: user %s, task %d", user.id, task_id)
