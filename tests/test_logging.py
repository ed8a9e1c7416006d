"""One line for each change and each refused token, and nothing secret in any of them."""

import re

import pytest

from tests.harness import SECRET, token

WORD = "hunter2"


@pytest.fixture(scope="module")
def log(api) -> str:
    """What the service wrote while every kind of request was made."""
    before = len(api.output())
    headers = {"Authorization": f"Bearer {token('ada', email=f'{WORD}@example.com', name=WORD)}"}
    task = api.request("POST", headers=headers, json={"title": WORD, "description": WORD}).json()
    path = f"/{task['id']}"
    api.request("PUT", path, json={"title": f"{WORD}!"})
    api.request("PATCH", f"{path}/complete")
    api.request("GET", path)
    api.request("DELETE", path)
    api.request("DELETE", path)
    api.request("POST", json={"title": WORD * 100})
    api.request("POST", headers={"Content-Type": "application/json"}, content=f'{{"{WORD}'.encode())
    for refused in (
        token(seconds=-60),
        token(key=SECRET + WORD),
        f"{WORD}.{WORD}.{WORD}",
        token(aud=WORD),
    ):
        api.request("GET", headers={"Authorization": f"Bearer {refused}"})
    return api.output()[before:]


def test_each_change_is_one_line_with_user_and_task(log):
    lines = re.findall(r"^\S+ \S+ INFO task (\w+): user ada, task (\d+)$", log, re.MULTILINE)
    assert [done for done, _ in lines] == ["created", "updated", "completed", "deleted"]
    assert len({task for _, task in lines}) == 1


def test_each_refused_token_is_one_line_with_the_reason(log):
    assert re.findall(r"^\S+ \S+ WARNING token refused: (.*)$", log, re.MULTILINE) == [
        "ExpiredSignatureError",
        "InvalidSignatureError",
        "DecodeError",
        "InvalidAudienceError",
    ]


def test_no_title_secret_token_or_email_is_logged(log):
    assert "task created" in log
    for secret in (WORD, SECRET, "eyJ", "Traceback"):
        assert secret not in log
