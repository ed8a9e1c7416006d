"""One line for each change and each refused token, and nothing secret in any of them."""

import re

import pytest

from tests.harness import FRONTEND, SECRET, token

WORD = "hunter2"
REFUSED = {
    token(seconds=-60): "ExpiredSignatureError",
    token(key=SECRET + WORD): "InvalidSignatureError",
    f"{WORD}.{WORD}.{WORD}": "DecodeError",
    WORD: "DecodeError",
    token(aud=WORD): f"InvalidAudienceError, expected {FRONTEND}",
    token(iss=WORD): f"InvalidIssuerError, expected {FRONTEND}",
}


@pytest.fixture(scope="module")
def log(api) -> str:
    """What the service wrote while every kind of request was made."""
    before = len(api.output())
    headers = {"Authorization": f"Bearer {token('ada', email=f'{WORD}@example.com', name=WORD)}"}
    task = api.request("POST", headers=headers, json={"title": WORD, "description": WORD}).json()
    path = f"/{task['id']}"
    api.request("PUT", path, json={"title": f"{WORD}!"})
    api.request("PUT", path, json={"completed": False})
    api.request("PATCH", f"{path}/complete")
    api.request("PATCH", f"{path}/complete")
    api.request("PATCH", f"{path}/complete", json={"completed": True})
    api.request("PATCH", f"{path}/complete", json={"completed": True})
    api.request("PATCH", f"{path}/complete", json={"completed": False})
    api.request("GET", path)
    api.request("DELETE", path)
    api.request("DELETE", path)
    api.request("PATCH", f"{path}/complete")
    api.request("GET", f"?status={WORD}")
    api.request("POST", json={"title": WORD * 100})
    api.request("POST", headers={"Content-Type": "application/json"}, content=f'{{"{WORD}'.encode())
    for refused in REFUSED:
        api.request("GET", headers={"Authorization": f"Bearer {refused}"})
    return without_access_log(api.output()[before:])


def without_access_log(output: str) -> str:
    """Leave out uvicorn's lines for requests, in which a query of the client's own stands."""
    return re.sub(r'^INFO: .* "[A-Z]+ /.* HTTP/1\.1" .*\n', "", output, flags=re.MULTILINE)


def test_each_change_is_one_line_with_user_and_task(log):
    lines = re.findall(r"^\S+ \S+ INFO task (\w+): user ada, task (\d+)$", log, re.MULTILINE)
    assert [done for done, _ in lines] == [
        "created",
        "updated",
        "updated",
        "completed",
        "reopened",
        "completed",
        "completed",
        "reopened",
        "deleted",
    ]
    assert len({task for _, task in lines}) == 1


def test_each_refused_token_is_one_line_with_the_reason(log):
    reasons = re.findall(r"^\S+ \S+ WARNING token refused: (.*)$", log, re.MULTILINE)
    assert reasons == list(REFUSED.values())


def test_nothing_else_is_logged(log):
    assert len(log.splitlines()) == 9 + len(REFUSED)


def test_no_title_secret_token_or_email_is_logged(log):
    assert "task created" in log
    for secret in (WORD, SECRET, "eyJ", "Traceback"):
        assert secret not in log
