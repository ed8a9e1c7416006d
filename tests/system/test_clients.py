"""Clients made from the OpenAPI document have names as if written by hand, and they work.

npm ci --prefix tests/system/frontend
.venv/bin/pip install -r tests/system/requirements.txt
.venv/bin/pytest -m system tests/system/test_clients.py
"""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from better_auth import missing
from typescript import run, workspace

from tests.harness import Postgres, Service, service, token

pytestmark = pytest.mark.system

ROUTES = {
    "list_tasks",
    "create_task",
    "read_task",
    "update_task",
    "toggle_task",
    "delete_task",
    "health",
}
SCHEMAS = {"TaskPublic", "TaskCreate", "TaskUpdate", "TaskCompletion", "Problem", "Health"}
# The Python client makes a class of each parameter that takes one of several words.
PARAMETERS = {"ListTasksStatus", "ListTasksSort"}
GONE = "You have no such task."

Import = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def running(database: Postgres) -> Iterator[Service]:
    with service(NEON_DATABASE_URL=database.create_database()) as backend:
        yield backend


@pytest.fixture(scope="module")
def document(running: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(running.client.get("/openapi.json").content)
    return path


@pytest.fixture(scope="module")
def python_client(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a package that openapi-python-client has made."""
    generator = shutil.which("openapi-python-client", path=os.path.dirname(sys.executable))
    if not generator:
        missing("openapi-python-client is not installed")
    directory = tmp_path_factory.mktemp("python")
    config = directory / "config.json"
    config.write_text(json.dumps({"post_hooks": []}))  # by default it runs a formatter
    package = directory / "todo_client"
    options = [f"--path={document}", f"--config={config}", f"--output-path={package}"]
    run(directory, generator, "generate", "--fail-on-warning", "--meta=none", *options)
    return package


@pytest.fixture
def client(python_client: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Return what imports a module of the Python client."""
    monkeypatch.syspath_prepend(python_client.parent)
    return lambda name: importlib.import_module(f"todo_client.{name}")


@pytest.fixture(scope="module")
def typescript_client(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the types of openapi-typescript and a program that uses them."""
    directory = tmp_path_factory.mktemp("typescript")
    workspace(directory, "client.ts")
    run(directory, "openapi-typescript", str(document), "--output", "schema.ts")
    return directory


def test_the_functions_of_the_python_client_have_the_names_of_the_routes(
    python_client: Path,
) -> None:
    modules = {path.stem for path in (python_client / "api").glob("*/*.py")}
    assert modules - {"__init__"} == ROUTES


def test_the_classes_of_the_python_client_have_the_names_of_the_schemas(client: Import) -> None:
    assert set(client("models").__all__) == SCHEMAS | PARAMETERS


def test_the_python_client_does_a_round_of_all_six_routes(client: Import, running: Service) -> None:
    models = client("models")
    with client("client").AuthenticatedClient(running.url, token("ada")) as connection:
        use_all_routes(client, models, connection)


def use_all_routes(client: Import, models: ModuleType, connection: object) -> None:
    def call(name: str, **arguments: Any) -> Any:
        return client(f"api.tasks.{name}").sync("ada", client=connection, **arguments)

    created = call("create_task", body=models.TaskCreate("Buy milk", "2 litres"))
    assert (created.user_id, created.title, created.description) == ("ada", "Buy milk", "2 litres")
    assert created.completed is False
    assert created.created_at.utcoffset().total_seconds() == 0
    assert call("list_tasks") == [created]
    assert call("read_task", task_id=created.id) == created

    updated = call("update_task", task_id=created.id, body=models.TaskUpdate(title="Buy oat milk"))
    assert (updated.title, updated.description) == ("Buy oat milk", "2 litres")
    assert updated.completed is False
    cleared = call("update_task", task_id=created.id, body=models.TaskUpdate(description=None))
    assert (cleared.title, cleared.description) == ("Buy oat milk", None)

    # The client cannot leave out a body that may also be null; an empty one toggles, too.
    empty = models.TaskCompletion()
    assert call("toggle_task", task_id=created.id, body=empty).completed is True
    done = models.TaskCompletion(completed=True)
    assert call("toggle_task", task_id=created.id, body=done).completed is True
    assert call("list_tasks", status=models.ListTasksStatus.PENDING) == []
    assert len(call("list_tasks", sort=models.ListTasksSort.TITLE)) == 1

    assert call("delete_task", task_id=created.id) is None
    assert call("read_task", task_id=created.id) == models.Problem(GONE)


def test_the_typescript_types_have_the_names_of_the_routes_and_schemas(
    typescript_client: Path,
) -> None:
    types = (typescript_client / "schema.ts").read_text()
    assert names(types, "export interface operations {", indentation=4) == ROUTES
    assert names(types, "    schemas: {", indentation=8) == SCHEMAS


def names(types: str, opening: str, indentation: int) -> set[str]:
    """Return the names that a block of a TypeScript file defines with an object type."""
    block = types.partition(f"\n{opening}\n")[2].partition("\n" + " " * (indentation - 4) + "}")[0]
    indent = " " * indentation
    lines = [
        line
        for line in block.splitlines()
        if line.startswith(indent) and line[indentation].isalpha()
    ]
    return {line.strip().removesuffix(": {") for line in lines}


def test_the_typescript_types_compile_and_do_a_round_of_all_six_routes(
    typescript_client: Path, running: Service
) -> None:
    strictly = ("--strict", "--module", "nodenext", "--target", "es2022")
    run(typescript_client, "tsc", *strictly, "client.ts")
    seen = json.loads(run(typescript_client, "node", "client.js", running.url, "bob", token("bob")))
    created = seen["created"]
    assert created | {"user_id": "bob", "title": "Buy milk", "description": "2 litres"} == created
    assert seen["read"] == created
    assert (seen["updated"]["title"], seen["updated"]["description"]) == ("Buy oat milk", None)
    assert seen["toggled"]["completed"] is True
    assert seen["reopened"]["completed"] is False
    assert seen["pending"] == [seen["reopened"]]
    assert (seen["deleted"], seen["gone"], seen["health"]) == (204, GONE, "ok")
