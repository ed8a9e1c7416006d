"""Every documented behaviour, and no other: Schemathesis holds the service to its OpenAPI document.

Alone: .venv/bin/pytest -m system tests/system/test_documented.py
Each test prints how many requests each phase has sent.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import Postgres, service, token

try:
    import schemathesis
    from schemathesis.engine import StopReason, events, from_schema
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("schemathesis is not installed", allow_module_level=True)

pytestmark = pytest.mark.system

# Of the requests and their order. How many rounds of them there are depends on the machine.
SEED = 1
# What chance seldom finds: the limits, and one character and a blank as languages differ on them.
EDGES = [letter * length for letter in "x\N{GRINNING FACE}" for length in (200, 201, 1000, 1001)]
EDGES += [
    "",
    " ",
    "\0",
    "x\0y",
    "\x1c",
    "\x85",
    "\ufeff",
    "\u2003" + "x" * 200 + "\n",
    "\ufeff" + "x" * 200,
]


def bearer(user: str) -> dict[str, object]:
    return {
        "name": user,
        "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token(user)}"}],
    }


def is_padded(body: object) -> bool:
    """Tell whether a title is too long only with the blanks around it.

    The service strips a title before it counts the characters. JSON Schema has no word for that,
    so by the document such a title is not valid, and the service takes it.
    """
    title = body.get("title") if isinstance(body, dict) else None
    return isinstance(title, str) and len(title) > 200 >= len(title.strip()) >= 1


def differences(event: object) -> Iterator[tuple[str, str]]:
    """Yield the name of each difference from the document, and how to see it again."""
    if isinstance(event, events.ScenarioFinished):
        for case, checks in event.recorder.checks.items():
            padded = is_padded(event.recorder.cases[case].value.body)
            for check in checks:
                if padded and check.name == "negative_data_rejection":
                    continue
                if found := check.failure_info:
                    answer = event.recorder.interactions[case].response
                    seen = f"{answer.status_code} {answer.text[:200]}" if answer else "no answer"
                    name = f"{check.name}, {found.failure.operation}: {found.failure.title}"
                    yield name, f"{found.failure.message}\n{found.code_sample}\n{seen}"
    elif isinstance(event, events.NonFatalError):
        yield f"{event.label}: {event.info.title}", event.info.message
    elif isinstance(event, events.EngineFinished) and event.stop_reason is not StopReason.MAX_TIME:
        yield f"the run has ended early: {event.stop_reason}", f"after {event.running_time:.0f} s"


class Run(NamedTuple):
    """Requests of one user, and the statuses that they must meet, and no other."""

    token_of: str | None
    path_of: str | None  # or any user's
    to_valid: list[str]
    to_invalid: list[str]
    seconds: int
    most_tasks: str = "10000"  # of the user


# A missing token is invalid, too, and so is an id with a slash in it, which is 404.
RUNS = {
    "own-tasks": Run("ada", "ada", ["200", "201", "204", "404"], ["400", "401", "404"], 70),
    "one-task-at-most": Run(
        "ada", "ada", ["200", "201", "204", "404", "409"], ["400", "401", "404"], 30, "1"
    ),
    "tasks-of-others": Run("ada", None, ["403"], ["401", "403"], 15),
    "no-token": Run(None, "ada", ["401"], ["401"], 15),
}


def configuration(run: Run, users: Path) -> schemathesis.Config:
    """Return Schemathesis's settings for a run, with a file of users and their tokens."""
    edges = {"dictionary": "edges", "probability": 0.1}
    parameters: dict[str, object] = {"body.title": edges, "body.description": edges}
    if run.path_of:
        parameters["path.user_id"] = run.path_of
    auth: dict[str, object] = {}
    if run.token_of:
        # What ada has read is asked for again as bob, who must not get it.
        auth["wfc"] = {"path": str(users), "user": run.token_of, "peers": ["ada", "bob"]}
    return schemathesis.Config.from_dict(
        {
            "seed": SEED,
            "workers": 1,  # several would send the same requests in another order each time
            "max-time": run.seconds,
            "continue-on-failure": True,
            "request-timeout": 15,
            "cache": {"enabled": False},
            "generation": {"database": "none"},
            "dictionaries": {"edges": {"values": EDGES}},  # valid or not is what the document says
            "parameters": parameters,
            "auth": auth,
            "checks": {  # all are on
                "positive_data_acceptance": {"expected-statuses": run.to_valid},
                "negative_data_rejection": {"expected-statuses": run.to_invalid},
            },
        }
    )


def statuses(event: events.ScenarioFinished) -> Iterator[tuple[str, str]]:
    """Yield the operation and the status of each answer."""
    for case, interaction in event.recorder.interactions.items():
        if interaction.response:
            operation = event.recorder.cases[case].value.operation
            yield operation.label, str(interaction.response.status_code)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_it_does_what_is_documented_and_nothing_else(
    database: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"auth": [bearer("ada"), bearer("bob")]}))
    sent: Counter[str] = Counter()
    met: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    environment = {
        "NEON_DATABASE_URL": database.create_database(),
        "MAX_TASKS_PER_USER": run.most_tasks,
    }
    with service(**environment) as running:
        address = f"{running.url}/openapi.json"
        schema = schemathesis.openapi.from_url(address, config=configuration(run, users))
        if "200" not in run.to_valid:
            schema = schema.exclude(path="/health")  # which is open to all
        for event in from_schema(schema).execute():
            found |= dict(differences(event))
            if isinstance(event, events.ScenarioFinished):
                sent[event.phase] += len(event.recorder.interactions)
                met.update(statuses(event))
    with capsys.disabled():
        phases = ", ".join(f"{phase} {count}" for phase, count in sent.items())
        print(f"\n{sent.total()} requests: {phases}")
    assert not found, "\n\n".join(f"{name}\n{seen}" for name, seen in found.items())
    # A check that had nothing to look at has shown nothing.
    operations = [operation.ok() for operation in schema.get_all_operations()]
    documented = {
        (operation.label, status)
        for operation in operations
        for status in operation.responses.status_codes
    }
    expected = {*run.to_valid, *run.to_invalid}
    assert {(label, status) for label, status in documented if status in expected} <= met
    assert all(sent[phase] for phase in ("examples", "coverage", "fuzzing", "stateful"))
