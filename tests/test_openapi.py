"""The OpenAPI document says what the service does, and no more."""

import tomllib
from typing import NamedTuple

import pytest

from tests.harness import ROOT

COLLECTION = "/api/{user_id}/tasks"
TASK = "/api/{user_id}/tasks/{task_id}"
COMPLETE = "/api/{user_id}/tasks/{task_id}/complete"


class Route(NamedTuple):
    """Where and how a route is called, its statuses, and its name in generated clients."""

    path: str
    method: str
    statuses: str
    name: str


ROUTES = [
    Route(COLLECTION, "get", "200 400 401 403 503", "list_tasks"),
    Route(COLLECTION, "post", "201 400 401 403 409 413 503", "create_task"),
    Route(TASK, "get", "200 400 401 403 404 503", "read_task"),
    Route(TASK, "put", "200 400 401 403 404 409 413 503", "update_task"),
    Route(TASK, "delete", "204 400 401 403 404 409 503", "delete_task"),
    Route(COMPLETE, "patch", "200 400 401 403 404 409 503", "toggle_task"),
    Route("/health", "get", "200", "health"),
]


@pytest.fixture(scope="module")
def document(api):
    return api.client.get("/openapi.json").json()


@pytest.fixture(params=ROUTES, ids=[route.name for route in ROUTES])
def route(request):
    return request.param


@pytest.fixture
def operation(document, route):
    return document["paths"][route.path][route.method]


@pytest.fixture(scope="module")
def schemas(document):
    return document["components"]["schemas"]


def reference(name):
    return {"$ref": f"#/components/schemas/{name}"}


def schema_of(answer):
    """Return the schema of an answer without the schema's own title, or None for no body."""
    if "content" not in answer:
        return None
    schema = answer["content"]["application/json"]["schema"]
    return {name: value for name, value in schema.items() if name != "title"}


def test_it_lists_the_routes_and_no_others(document):
    listed = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(route.path, route.method) for route in ROUTES}


def test_it_describes_the_api_and_its_version(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert document["info"]["version"] == project["version"]
    assert document["info"]["title"] == "Todo"
    for word in ("Bearer", "Better Auth", "python -m backend.auth.jwt ada", "detail"):
        assert word in document["info"]["description"]


def test_a_route_has_exactly_its_statuses(operation, route):
    assert sorted(operation["responses"]) == route.statuses.split()


def test_a_route_is_named_and_described(operation, route):
    assert operation["operationId"] == route.name
    assert operation["summary"]
    assert operation["description"].endswith(".")


def test_every_answer_has_its_schema(operation, route):
    list_of_tasks = {"type": "array", "items": reference("Task")}
    successes = {
        "list_tasks": list_of_tasks,
        "delete_task": None,
        "health": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    success, *errors = route.statuses.split()
    expected = successes.get(route.name, reference("Task"))
    assert schema_of(operation["responses"][success]) == expected
    for status in errors:
        assert schema_of(operation["responses"][status]) == reference("Problem")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "Task",
            "id user_id title description completed created_at updated_at",
        ),
        ("TaskCreate", "title description"),
        ("TaskUpdate", "title description completed"),
        ("Problem", "detail"),
    ],
)
def test_a_schema_has_its_fields(schemas, name, fields):
    assert list(schemas[name]["properties"]) == fields.split()


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
def test_times_are_called_so(schemas, field):
    assert schemas["Task"]["properties"][field]["format"] == "date-time"


def test_what_is_required_is_said(schemas):
    assert schemas["Task"]["required"] == list(schemas["Task"]["properties"])
    assert schemas["TaskCreate"]["required"] == ["title"]
    assert "required" not in schemas["TaskUpdate"]


@pytest.mark.parametrize("name", ["TaskCreate", "TaskUpdate"])
def test_lengths_stand_beside_the_patterns(schemas, name):
    title = schemas[name]["properties"]["title"]
    assert (title["minLength"], title["maxLength"]) == (1, 200)
    assert title["pattern"]
    description, null = schemas[name]["properties"]["description"]["anyOf"]
    assert description["maxLength"] == 1000
    assert description["pattern"]
    assert null == {"type": "null"}


@pytest.mark.parametrize(
    ("place", "values", "default"),
    [(0, ["all", "pending", "completed"], "all"), (1, ["created", "title"], "created")],
)
def test_the_parameters_of_a_list_name_their_values(document, place, values, default):
    parameters = document["paths"][COLLECTION]["get"]["parameters"]
    in_query = [parameter for parameter in parameters if parameter["in"] == "query"]
    assert [parameter["name"] for parameter in in_query] == ["status", "sort"]
    assert not in_query[place]["required"]
    assert in_query[place]["schema"]["enum"] == values
    assert in_query[place]["schema"]["default"] == default


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_an_id_has_its_bounds(document, method):
    parameters = document["paths"][TASK][method]["parameters"]
    (task_id,) = [parameter for parameter in parameters if parameter["name"] == "task_id"]
    assert task_id["schema"]["type"] == "integer"
    assert task_id["schema"]["minimum"] == 1
    assert task_id["schema"]["maximum"] == 2**53 - 1


def test_nothing_is_left_of_fastapis_own_422(document):
    assert "422" not in str(document)
    assert "ValidationError" not in str(document)


def test_docs_can_authorize_with_a_token(document, operation, route):
    scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    assert document["components"]["securitySchemes"] == {"HTTPBearer": scheme}
    expected = None if route.path == "/health" else [{"HTTPBearer": []}]
    assert operation.get("security") == expected


def test_docs_are_a_page(api):
    assert "swagger-ui" in api.client.get("/docs").text
