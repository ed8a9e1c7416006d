"""The OpenAPI document says what the service does, and no more."""

import pytest

COLLECTION, TASK = "/api/{user_id}/tasks", "/api/{user_id}/tasks/{task_id}"
STATUSES = {
    (COLLECTION, "get"): "200 401 403 503",
    (COLLECTION, "post"): "201 400 401 403 413 503",
    (TASK, "get"): "200 400 401 403 404 503",
    (TASK, "put"): "200 400 401 403 404 413 503",
    (TASK, "delete"): "204 400 401 403 404 503",
    (f"{TASK}/complete", "patch"): "200 400 401 403 404 413 503",
    ("/health", "get"): "200",
}


@pytest.fixture(scope="module")
def document(api):
    return api.client.get("/openapi.json").json()


def test_it_lists_the_routes_and_exactly_their_statuses(document):
    assert {
        (path, method): " ".join(sorted(operation["responses"]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    } == STATUSES


def test_every_answer_has_its_schema_and_every_schema_an_example(document):
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status == "204":
                    assert "content" not in answer
                elif path != "/health":
                    schema = answer["content"]["application/json"]["schema"]
                    name = (schema.get("items") or schema)["$ref"].rpartition("/")[2]
                    assert name == ("TaskPublic" if status < "300" else "Problem")
    for name in ("TaskPublic", "TaskCreate", "TaskUpdate", "TaskCompletion", "Problem"):
        for field in schemas[name]["properties"].values():
            assert (
                "examples" in str(field)
                or field.get("format") == "date-time"
                or field["type"] == "boolean"
            ), name
    assert "ValidationError" not in str(schemas)
    assert schemas["TaskPublic"]["required"] == list(schemas["TaskPublic"]["properties"])
    assert schemas["TaskCreate"]["required"] == ["title"]


def test_docs_can_authorize_with_a_token(api, document):
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == (
                None if path == "/health" else [{"HTTPBearer": []}]
            )
    assert "swagger-ui" in api.client.get("/docs").text
