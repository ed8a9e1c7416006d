"""The six routes, each below its statement: SQLModel's select to read, plain SQL to write."""

import logging
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic_core import to_json
from sqlalchemy import bindparam, func, or_
from sqlmodel import col, select

from backend.db import Row, compile_sql, fetch
from backend.dependencies import CurrentUser
from backend.models import Problem, Task, TaskCreate, TaskUpdate

MAX_TASKS = 10_000  # of one user: a list has no pages

TaskId = Annotated[int, Path(ge=1, le=2**53 - 1)]  # what JavaScript counts exactly
ERROR = {"model": Problem}  # for `responses`

logger = logging.getLogger(__name__)


# The docstrings of the routes describe them in the OpenAPI document.
router = APIRouter(
    prefix="/api/{user_id}/tasks",
    tags=["tasks"],
    responses={400: ERROR, 401: ERROR, 403: ERROR, 503: ERROR},
)


async def fetch_task(statement: str, **values: Any) -> Row:
    """Return the row of a statement about one task, or raise 404 if there is none."""
    rows = await fetch(statement, **values)
    if not rows:
        raise HTTPException(404, "You have no such task.")
    return rows[0]


def answer(content: Row | list[Row], status_code: int = 200) -> Response:
    """Answer with rows as PostgreSQL gave them.

    The routes name a response_model for the document only: to check again what the table already
    guarantees would take 150 microseconds for a list of 100.
    """
    return Response(to_json(content), status_code, media_type="application/json")


# `status=all` sends NULL. A task whose `completed` is NULL, which a column that was added later may
# hold, counts as pending.
OWN_TASKS = select(Task).where(
    Task.user_id == bindparam("user_id"),
    or_(bindparam("completed").is_(None), col(Task.completed).is_(True) == bindparam("completed")),
)
LIST = {
    "created": compile_sql(OWN_TASKS.order_by(col(Task.id).desc())),
    "title": compile_sql(OWN_TASKS.order_by(func.lower(Task.title), col(Task.id).desc())),
}


@router.get("", response_model=list[Task])
async def list_tasks(
    user: CurrentUser,
    status: Literal["all", "pending", "completed"] = "all",
    sort: Literal["created", "title"] = "created",
) -> Response:
    """The user's own tasks as a bare array, newest first, or by title from A to Z."""
    completed = {"all": None, "pending": False, "completed": True}[status]
    return answer(await fetch(LIST[sort], user_id=user.id, completed=completed))


# A user's first task also makes the user's row. Better Auth's `users` may require columns that are
# not given here, for which INSERT would fail even with ON CONFLICT. So no row is proposed where one
# exists. ON CONFLICT is for two first tasks at once.
CREATE = """
    INSERT INTO users (id, email, name)
    SELECT %(user_id)s, %(email)s, %(name)s
    WHERE NOT EXISTS (SELECT FROM users WHERE id = %(user_id)s)
    ON CONFLICT DO NOTHING;

    INSERT INTO tasks (user_id, title, description, completed, created_at, updated_at)
    SELECT %(user_id)s, %(title)s, nullif(%(description)s, ''), false, now(), now()
    WHERE (SELECT count(*) FROM tasks WHERE user_id = %(user_id)s) < %(max_tasks)s
    RETURNING id, user_id, title, description, completed, created_at, updated_at
"""


@router.post("", response_model=Task, status_code=201, responses={409: ERROR, 413: ERROR})
async def create_task(user: CurrentUser, body: TaskCreate) -> Response:
    """Other fields than title and description are ignored."""
    rows = await fetch(
        CREATE,
        user_id=user.id,
        email=user.email,
        name=user.name,
        title=body.title,
        description=body.description,
        max_tasks=MAX_TASKS,
    )
    if not rows:
        raise HTTPException(409, f"You have {MAX_TASKS} tasks already, which is the most.")
    logger.info("task created: user %s, task %d", user.id, rows[0]["id"])
    return answer(rows[0], 201)


READ = compile_sql(
    select(Task).where(Task.user_id == bindparam("user_id"), Task.id == bindparam("task_id"))
)


@router.get("/{task_id}", response_model=Task, responses={404: ERROR})
async def read_task(user: CurrentUser, task_id: TaskId) -> Response:
    """One of the user's own tasks."""
    return answer(await fetch_task(READ, user_id=user.id, task_id=task_id))


UPDATE = """
    UPDATE tasks
    SET title = coalesce(%(title)s, title),
        description = CASE
            WHEN %(has_description)s THEN nullif(%(description)s, '') ELSE description
        END,
        completed = coalesce(%(completed)s, completed),
        updated_at = now()
    WHERE user_id = %(user_id)s AND id = %(task_id)s
    RETURNING id, user_id, title, description, completed, created_at, updated_at
"""


@router.put("/{task_id}", response_model=Task, responses={404: ERROR, 409: ERROR, 413: ERROR})
async def update_task(user: CurrentUser, task_id: TaskId, body: TaskUpdate) -> Response:
    """Only the fields that are sent change; null or empty text clears a description."""
    changes = body.model_dump()  # Fields that were not sent are left out here, and NULL below.
    task = await fetch_task(
        UPDATE,
        user_id=user.id,
        task_id=task_id,
        title=changes.get("title"),
        has_description="description" in changes,
        description=changes.get("description"),
        completed=changes.get("completed"),
    )
    logger.info("task updated: user %s, task %d", user.id, task_id)
    return answer(task)


TOGGLE = """
    UPDATE tasks
    SET completed = completed IS NOT TRUE, updated_at = now()
    WHERE user_id = %(user_id)s AND id = %(task_id)s
    RETURNING id, user_id, title, description, completed, created_at, updated_at
"""


@router.patch("/{task_id}/complete", response_model=Task, responses={404: ERROR, 409: ERROR})
async def toggle_task(user: CurrentUser, task_id: TaskId) -> Response:
    """Completes a pending task, and reopens a completed one."""
    task = await fetch_task(TOGGLE, user_id=user.id, task_id=task_id)
    change = "completed" if task["completed"] else "reopened"
    logger.info("task %s: user %s, task %d", change, user.id, task_id)
    return answer(task)


DELETE = "DELETE FROM tasks WHERE user_id = %(user_id)s AND id = %(task_id)s RETURNING id"


@router.delete("/{task_id}", status_code=204, responses={404: ERROR, 409: ERROR})
async def delete_task(user: CurrentUser, task_id: TaskId) -> None:
    """Deletes it for good."""
    await fetch_task(DELETE, user_id=user.id, task_id=task_id)
    logger.info("task deleted: user %s, task %d", user.id, task_id)


# Some clients put a slash at the end. These stand last because requests try route after route.
router.add_api_route("/", list_tasks, include_in_schema=False)
router.add_api_route("/", create_task, methods=["POST"], include_in_schema=False)
