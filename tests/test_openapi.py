"""The OpenAPI document says what the service does, and no more."""

import tomllib

import pytest

from tests.harness import ROOT

COLLECTION = "/api/{user_id}/tasks"
TASK = f"{COLLECTION}/{{task_id}}"
# The statuses of each route, by its path, its method, and its name in generated clients.
ROUTES = {
    (COLLECTION, "get", "list_tasks"): "200 400 401 403 503",
    (COLLECTION, "post", "create_task"): "201 400 401 403 409 413 503",
    (TASK, "get", "read_task"): "200 400 401 403 404 503",
    (TASK, "put", "update_task"): "200 400 401 403 404 409 413 503",
    (TASK, "delete", "delete_task"): "204 400 401 403 404 409 503",
    (f"{TASK}/complete", "patch", "toggle_task"): "200 400 401 403 404 409 503",
    ("/health", "get", "health"): "200",
}
A_TASK = {"$ref": "#/components/schemas/Task"}
A_PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest.fixture(scope="module")
def document(api):
    return api.client.get("/openapi.json").json()


def test_it_lists_the_routes_with_their_statuses_and_no_others(document):
    listed = {
        (path, method, operation["operationId"]): " ".join(sorted(operation["responses"]))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert listed == ROUTES


def test_it_describes_the_api_and_its_version(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (document["info"]["title"], document["info"]["version"]) == ("Todo", project["version"])
    for word in ("Bearer", "Better Auth", "python -m backend.auth.jwt ada", "detail"):
        assert word in document["info"]["description"]


@pytest.mark.parametrize("route", ROUTES, ids=[name for *_, name in ROUTES])
def test_a_route_has_its_schemas_and_words(document, route):
    path, method, name = route
    operation = document["paths"][path][method]
    assert operation["summary"]
    assert operation["description"].endswith(".")
    if name == "health":
        return
    success, *errors = [
        answer.get("content", {}).get("application/json", {}).get("schema")
        for _, answer in sorted(operation["responses"].items())
    ]
    assert errors == [A_PROBLEM] * len(errors)
    assert operation["security"] == [{"HTTPBearer": []}]
    if name == "list_tasks":
        assert success["items"] == A_TASK
    else:
        assert success == (None if name == "delete_task" else A_TASK)


def test_the_schemas_have_their_fields_and_lengths_and_say_what_is_required(document):
    schemas = document["components"]["schemas"]
    task = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]
    assert {name: list(schema["properties"]) for name, schema in schemas.items()} == {
        "Task": task,
        "TaskCreate": ["title", "description"],
        "TaskUpdate": ["title", "description", "completed"],
        "Problem": ["detail"],
    }
    assert schemas["Task"]["required"] == task
    assert schemas["TaskCreate"]["required"] == ["title"]
    assert "required" not in schemas["TaskUpdate"]
    assert schemas["Task"]["properties"]["updated_at"]["format"] == "date-time"
    for name in ("TaskCreate", "TaskUpdate"):
        fields = schemas[name]["properties"]
        assert (fields["title"]["minLength"], fields["title"]["maxLength"]) == (1, 200)
        description, null = fields["description"]["anyOf"]
        assert (description["maxLength"], null) == (1000, {"type": "null"})


def test_parameters_have_their_values_and_bounds(document):
    listed = document["paths"][COLLECTION]["get"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in listed}
    assert schemas["status"]["enum"] == ["all", "pending", "completed"]
    assert schemas["sort"]["enum"] == ["created", "title"]
    assert (schemas["status"]["default"], schemas["sort"]["default"]) == ("all", "created")
    for method in ("get", "put", "delete"):
        parameters = document["paths"][TASK][method]["parameters"]
        (schema,) = (each["schema"] for each in parameters if each["name"] == "task_id")
        assert (schema["minimum"], schema["maximum"]) == (1, 2**53 - 1)


def test_docs_are_a_page_that_takes_a_token(api, document):
    schemes = document["components"]["securitySchemes"]
    assert schemes == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    assert "swagger-ui" in api.client.get("/docs").text
