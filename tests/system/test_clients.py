"""Clients made from the OpenAPI document have names as if written by hand, and they work."""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from better_auth import DIRECTORY, missing, packages, run

from tests.harness import Postgres, Service, service, token

pytestmark = pytest.mark.system

SCHEMAS = {"Task", "TaskCreate", "TaskUpdate", "Problem"}
GONE = "You have no such task."


@pytest.fixture(scope="module")
def running(database: Postgres) -> Iterator[Service]:
    with service(NEON_DATABASE_URL=database.create_database()) as backend:
        yield backend


@pytest.fixture
def document(running: Service, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(running.client.get("/openapi.json").content)
    return path


def test_the_python_client_does_a_round_of_all_six_routes(
    document: Path, running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = shutil.which("openapi-python-client", path=os.path.dirname(sys.executable))
    if not generator:
        missing("openapi-python-client is not installed")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"post_hooks": []}))  # by default it runs a formatter
    package = tmp_path / "todo_client"
    options = [f"--path={document}", f"--config={config}", f"--output-path={package}"]
    run(tmp_path, generator, "generate", "--fail-on-warning", "--meta=none", *options)
    monkeypatch.syspath_prepend(tmp_path)
    models = importlib.import_module("todo_client.models")
    assert set(models.__all__) >= SCHEMAS
    client = importlib.import_module("todo_client").AuthenticatedClient(running.url, token("ada"))

    def call(name: str, **arguments: Any) -> Any:
        module = importlib.import_module(f"todo_client.api.tasks.{name}")
        return module.sync("ada", client=client, **arguments)

    created = call("create_task", body=models.TaskCreate("Buy milk", "2 litres"))
    assert (created.user_id, created.title, created.description) == ("ada", "Buy milk", "2 litres")
    assert created.created_at.utcoffset().total_seconds() == 0
    assert call("list_tasks") == [created]
    assert call("read_task", task_id=created.id) == created
    updated = call("update_task", task_id=created.id, body=models.TaskUpdate(title="Buy oat milk"))
    assert (updated.title, updated.description) == ("Buy oat milk", "2 litres")
    cleared = call("update_task", task_id=created.id, body=models.TaskUpdate(description=None))
    assert (cleared.title, cleared.description) == ("Buy oat milk", None)
    assert call("toggle_task", task_id=created.id).completed is True
    assert call("list_tasks", status=models.ListTasksStatus.PENDING) == []
    assert len(call("list_tasks", sort=models.ListTasksSort.TITLE)) == 1
    assert call("delete_task", task_id=created.id) is None
    assert call("read_task", task_id=created.id) == models.Problem(GONE)
    client.get_httpx_client().close()


def test_the_typescript_types_compile_and_do_a_round_of_all_six_routes(
    document: Path, running: Service, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(packages())
    for name in ("package.json", "client.ts"):
        shutil.copy(DIRECTORY / name, tmp_path)
    run(tmp_path, "openapi-typescript", str(document), "--output", "schema.ts")
    strictly = ("--strict", "--module", "nodenext", "--target", "es2022")
    run(tmp_path, "tsc", *strictly, "client.ts")
    seen = json.loads(run(tmp_path, "node", "client.js", running.url, "bob", token("bob")))
    created = seen["created"]
    assert created | {"user_id": "bob", "title": "Buy milk", "description": "2 litres"} == created
    assert seen["read"] == created
    assert (seen["updated"]["title"], seen["updated"]["description"]) == ("Buy oat milk", None)
    assert seen["toggled"]["completed"] is True
    assert seen["reopened"]["completed"] is False
    assert seen["pending"] == [seen["reopened"]]
    assert (seen["deleted"], seen["gone"], seen["health"]) == (204, GONE, "ok")
