"""The six statements, each with its owner, and the six routes."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from pydantic import BeforeValidator
from sqlalchemy import Executable, bindparam, case, delete, func, not_, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from backend.auth.jwt import Identity
from backend.db import fetch
from backend.dependencies import CurrentUser
from backend.models import Problem, Task, TaskCompletion, TaskCreate, TaskPublic, TaskUpdate, User

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/api/{user_id}/tasks", tags=["tasks"])

# Every statement carries its owner: `user_id` is the `sub` of the verified token, never a value of the request.
own = col(Task.user_id) == bindparam("user_id")
this = col(Task.id) == bindparam("task_id")
tasks = Task.__table__

LIST = select(tasks).where(own).order_by(tasks.c.id)
READ = select(tasks).where(own, this)
owner = insert(User).values(id=bindparam("user_id"), email=bindparam("email"), name=bindparam("name"))
known = {"email": func.coalesce(owner.excluded.email, User.email), "name": func.coalesce(owner.excluded.name, User.name)}
owner = owner.on_conflict_do_update(
    index_elements=[User.id],
    set_=known,
    where=tuple_(User.email, User.name).is_distinct_from(tuple_(*known.values())),
)
CREATE = (
    insert(tasks)
    .add_cte(owner.cte("owner"))
    .values(user_id=bindparam("user_id"), title=bindparam("title"), description=bindparam("description"))
    .returning(tasks)
)
UPDATE = (
    update(tasks)
    .where(own, this)
    .values(
        title=func.coalesce(bindparam("new_title"), tasks.c.title),
        description=case((bindparam("describe"), bindparam("new_description")), else_=tasks.c.description),
        completed=func.coalesce(bindparam("new_completed"), tasks.c.completed),
        updated_at=func.now(),
    )
    .returning(tasks)
)
TOGGLE = (
    update(tasks)
    .where(own, this)
    .values(completed=func.coalesce(bindparam("new_completed"), not_(tasks.c.completed)), updated_at=func.now())
    .returning(tasks)
)
DELETE = delete(tasks).where(own, this).returning(tasks.c.id)

# Digits alone: pydantic would take 1_0 and +1 too. PostgreSQL's integer ends at 2^31 - 1.
TaskId = Annotated[int, BeforeValidator(lambda text: text if text.isdecimal() else None), Path(ge=1, le=2**31 - 1)]

PROBLEMS = {
    400: "title: must have 1 to 200 characters, not only blanks, and no NUL.",
    401: "The token is expired.",
    403: "The token is for another user.",
    404: "You have no such task.",
    413: "The body must have at most 65536 bytes.",
    503: "The database is unavailable; try again.",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe these error answers for the OpenAPI document."""
    return {
        status: {"model": Problem, "content": {"application/json": {"example": {"detail": PROBLEMS[status]}}}}
        for status in statuses
    }


async def fetch_one(statement: Executable, user: Identity, **parameters: object) -> Any:
    """Return the one row, or raise 404; the same whether the task is missing or another user's."""
    rows = await fetch(statement, user_id=user.id, **parameters)
    if not rows:
        raise HTTPException(404, "You have no such task.")
    return rows[0]


@router.get("", responses=answers(401, 403, 503))
@router.get("/", include_in_schema=False)
async def list_tasks(user: CurrentUser) -> list[TaskPublic]:
    return await fetch(LIST, user_id=user.id)


@router.post("", status_code=201, responses=answers(400, 401, 403, 413, 503))
@router.post("/", status_code=201, include_in_schema=False)
async def create_task(user: CurrentUser, body: TaskCreate) -> TaskPublic:
    task = await fetch_one(
        CREATE, user, email=user.email, name=user.name, title=body.title, description=body.description or None
    )
    logger.info("task created: user %s, task %d", user.id, task["id"])
    return task


@router.get("/{task_id}", responses=answers(400, 401, 403, 404, 503))
async def read_task(user: CurrentUser, task_id: TaskId) -> TaskPublic:
    return await fetch_one(READ, user, task_id=task_id)


@router.put("/{task_id}", responses=answers(400, 401, 403, 404, 413, 503))
async def update_task(user: CurrentUser, task_id: TaskId, body: TaskUpdate) -> TaskPublic:
    task = await fetch_one(
        UPDATE,
        user,
        task_id=task_id,
        new_title=body.title,
        describe="description" in body.model_fields_set,
        new_description=body.description or None,
        new_completed=body.completed,
    )
    logger.info("task updated: user %s, task %d", user.id, task_id)
    return task


@router.patch("/{task_id}/complete", responses=answers(400, 401, 403, 404, 413, 503))
async def toggle_task(user: CurrentUser, task_id: TaskId, body: TaskCompletion | None = None) -> TaskPublic:
    task = await fetch_one(TOGGLE, user, task_id=task_id, new_completed=body and body.completed)
    logger.info("task completed: user %s, task %d, %s", user.id, task_id, task["completed"])
    return task


@router.delete("/{task_id}", status_code=204, responses=answers(400, 401, 403, 404, 503))
async def delete_task(user: CurrentUser, task_id: TaskId) -> None:
    await fetch_one(DELETE, user, task_id=task_id)
    logger.info("task deleted: user %s, task %d", user.id, task_id)
