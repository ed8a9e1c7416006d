"""The six statements, each with its owner, and the six routes."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import BeforeValidator
from pydantic_core import to_json
from sqlalchemy import Executable, bindparam, case, delete, func, not_, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel, select

from backend.db import fetch
from backend.dependencies import CurrentUser
from backend.models import Problem, Task, TaskCompletion, TaskCreate, TaskPublic, TaskUpdate, User

users, tasks = SQLModel.metadata.tables["users"].c, SQLModel.metadata.tables["tasks"].c
# `user_id` is always the `sub` of a verified token, never a value of the request.
own, this = tasks.user_id == bindparam("user_id"), tasks.id == bindparam("task_id")
sent = {name: bindparam(f"new_{name}", type_=tasks[name].type) for name in ("title", "description", "completed")}
LIST = select(*tasks).where(own).order_by(tasks.id)
READ = select(*tasks).where(own, this)
owner = insert(User).values(id=bindparam("user_id"), email=bindparam("email"), name=bindparam("name"))
known = {name: func.coalesce(owner.excluded[name], users[name]) for name in ("email", "name")}
changed = tuple_(users.email, users.name).is_distinct_from(tuple_(*known.values()))  # else each task writes its user
owner = owner.on_conflict_do_update(index_elements=["id"], set_=known, where=changed)
task = insert(Task).values(user_id=bindparam("user_id"), title=sent["title"], description=sent["description"])
CREATE = task.add_cte(owner.cte("owner")).returning(*tasks)
update_own = update(Task).where(own, this).values(updated_at=func.now()).returning(*tasks)
UPDATE = update_own.values(
    title=func.coalesce(sent["title"], tasks.title),
    description=case((bindparam("describe"), sent["description"]), else_=tasks.description),
    completed=func.coalesce(sent["completed"], tasks.completed),
)
TOGGLE = update_own.values(completed=func.coalesce(sent["completed"], not_(tasks.completed)))
DELETE = delete(Task).where(own, this).returning(tasks.id)

# Digits alone: pydantic would take 1_0 and +1 as well. PostgreSQL's integer ends at 2^31 - 1.
TaskId = Annotated[int, Path(ge=1, le=2**31 - 1), BeforeValidator(lambda text: text if text.isdecimal() else None)]
# What every route can answer besides, what one with an id, and what one with a body; "4XX" keeps FastAPI's 422 away.
ANY: Any = {status: {"model": Problem} for status in (401, 403, 503, "4XX")}
ID: Any = {status: {"model": Problem} for status in (400, 404)}
BODY: Any = {status: {"model": Problem} for status in (400, 413)}
router = APIRouter(prefix="/api/{user_id}/tasks", tags=["tasks"], responses=ANY)


async def one(done: str, statement: Executable, user: User, body: Any = (), **values: object) -> Response:
    """Run a statement about one task and answer with its row; raise 404 if this user has no such task."""
    rows = await fetch(statement, user_id=user.id, **values, **{f"new_{name}": value for name, value in body})
    if not rows:
        raise HTTPException(404, "You have no such task.")
    if done:
        logging.getLogger(__name__).info("task %s: user %s, task %d", done, user.id, rows[0]["id"])
    return Response(to_json(rows[0]), 201 if done == "created" else 200, media_type="application/json")


@router.get("/", include_in_schema=False)
@router.get("", response_model=list[TaskPublic])
async def list_tasks(user: CurrentUser) -> Response:
    return Response(to_json(await fetch(LIST, user_id=user.id)), media_type="application/json")


@router.post("/", include_in_schema=False)
@router.post("", response_model=TaskPublic, status_code=201, responses=BODY)
async def create_task(user: CurrentUser, body: TaskCreate) -> Response:
    return await one("created", CREATE, user, body, email=user.email, name=user.name)


@router.get("/{task_id}", response_model=TaskPublic, responses=ID)
async def read_task(user: CurrentUser, task_id: TaskId) -> Response:
    return await one("", READ, user, task_id=task_id)


@router.put("/{task_id}", response_model=TaskPublic, responses=ID | BODY)
async def update_task(user: CurrentUser, task_id: TaskId, body: TaskUpdate) -> Response:
    return await one("updated", UPDATE, user, body, task_id=task_id, describe="description" in body.model_fields_set)


@router.patch("/{task_id}/complete", response_model=TaskPublic, responses=ID | BODY)
async def toggle_task(user: CurrentUser, task_id: TaskId, body: TaskCompletion | None = None) -> Response:
    return await one("completed", TOGGLE, user, task_id=task_id, new_completed=body and body.completed)


@router.delete("/{task_id}", status_code=204, responses=ID)
async def delete_task(user: CurrentUser, task_id: TaskId) -> None:
    await one("deleted", DELETE, user, task_id=task_id)
