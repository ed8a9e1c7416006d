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


@pytest.fixture(scope="module")
def document(api):
    return api.client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def schemas(document):
    return document["components"]["schemas"]


def schema_of(answer):
    return answer["content"]["application/json"]["schema"]


def test_it_lists_the_routes_and_no_others(document):
    listed = {
        (path, method, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert listed == set(ROUTES)


def test_it_describes_the_api_and_its_version(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert document["info"]["version"] == project["version"]
    assert document["info"]["title"] == "Todo"
    for word in ("Bearer", "Better Auth", "python -m backend.auth.jwt ada", "detail"):
        assert word in document["info"]["description"]


@pytest.mark.parametrize(("route", "statuses"), ROUTES.items(), ids=[name for *_, name in ROUTES])
def test_a_route_has_its_statuses_schemas_and_words(document, route, statuses):
    path, method, name = route
    operation = document["paths"][path][method]
    success, *errors = statuses.split()
    answers = operation["responses"]
    assert sorted(answers) == [success, *errors]
    for status in errors:
        assert schema_of(answers[status]) == {"$ref": "#/components/schemas/Problem"}
    if name == "list_tasks":
        assert schema_of(answers[success])["items"] == {"$ref": "#/components/schemas/Task"}
    elif name == "delete_task":
        assert "content" not in answers[success]
    elif name != "health":
        assert schema_of(answers[success]) == {"$ref": "#/components/schemas/Task"}
    assert operation["summary"]
    assert operation["description"].endswith(".")
    assert operation.get("security") == (None if name == "health" else [{"HTTPBearer": []}])


def test_the_schemas_have_their_fields_and_say_what_is_required(schemas):
    fields = {name: list(schema["properties"]) for name, schema in schemas.items()}
    task = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]
    assert fields == {
        "Task": task,
        "TaskCreate": ["title", "description"],
        "TaskUpdate": ["title", "description", "completed"],
        "Problem": ["detail"],
    }
    assert schemas["Task"]["required"] == task
    assert schemas["TaskCreate"]["required"] == ["title"]
    assert "required" not in schemas["TaskUpdate"]
    for field in ("created_at", "updated_at"):
        assert schemas["Task"]["properties"][field]["format"] == "date-time"


@pytest.mark.parametrize("name", ["TaskCreate", "TaskUpdate"])
def test_the_schemas_have_the_lengths(schemas, name):
    title = schemas[name]["properties"]["title"]
    assert (title["minLength"], title["maxLength"]) == (1, 200)
    description, null = schemas[name]["properties"]["description"]["anyOf"]
    assert description["maxLength"] == 1000
    assert null == {"type": "null"}


def test_parameters_have_their_values_and_bounds(document):
    listed = document["paths"][COLLECTION]["get"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in listed}
    assert schemas["status"]["enum"] == ["all", "pending", "completed"]
    assert schemas["sort"]["enum"] == ["created", "title"]
    assert (schemas["status"]["default"], schemas["sort"]["default"]) == ("all", "created")
    for method in ("get", "put", "delete"):
        parameters = document["paths"][TASK][method]["parameters"]
        (task_id,) = (part["schema"] for part in parameters if part["name"] == "task_id")
        assert (task_id["minimum"], task_id["maximum"]) == (1, 2**53 - 1)


def test_docs_are_a_page_that_takes_a_token(api, document):
    schemes = document["components"]["securitySchemes"]
    assert schemes == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    assert "swagger-ui" in api.client.get("/docs").text
