"""Schemathesis holds the service to its OpenAPI document: it does that, and nothing else."""

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

# What chance seldom finds: the limits, in characters of one and of four bytes, and NUL.
EDGES = [letter * length for letter in "x\N{GRINNING FACE}" for length in (200, 201, 1000, 1001)]
EDGES += ["", "\0", "x\0y", "\ufeff"]
USERS = [
    {
        "name": user,
        "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token(user)}"}],
    }
    for user in ("ada", "bob")
]


class Run(NamedTuple):
    """Requests of one user, and the statuses that they may meet, and no other."""

    token_of: str | None
    path_of: str | None  # or any user's
    to_valid: list[str]
    to_invalid: list[str]
    seconds: int


# A missing token is invalid, too, and so is an id with a slash in it, which is 404.
RUNS = {
    "own tasks": Run("ada", "ada", ["200", "201", "204", "404"], ["400", "401", "404"], 20),
    "tasks of others": Run("ada", None, ["403"], ["400", "401", "403"], 6),
    "no token": Run(None, "ada", ["401"], ["400", "401"], 6),
}


def configuration(run: Run, users: Path) -> schemathesis.Config:
    """Return Schemathesis's settings for a run, with a file of users and their tokens."""
    users.write_text(json.dumps({"auth": USERS}))
    edges = {"dictionary": "edges", "probability": 0.1}
    path = {"path.user_id": run.path_of} if run.path_of else {}
    # What ada has read is asked for again as bob, who must not get it.
    wfc = {"path": str(users), "user": run.token_of, "peers": ["ada", "bob"]}
    return schemathesis.Config.from_dict(
        {
            "seed": 1,
            "workers": 1,  # several would send the same requests in another order each time
            "max-time": run.seconds,
            "continue-on-failure": True,
            "request-timeout": 15,
            "cache": {"enabled": False},
            "generation": {"database": "none"},
            "dictionaries": {"edges": {"values": EDGES}},
            "parameters": path | {"body.title": edges, "body.description": edges},
            "auth": {"wfc": wfc} if run.token_of else {},
            "checks": {  # All are on but one: the framework's 405 names the methods of one route.
                "allow_header_conformance": {"enabled": False},
                "positive_data_acceptance": {"expected-statuses": run.to_valid},
                "negative_data_rejection": {"expected-statuses": run.to_invalid},
            },
        }
    )


def has_blanks_around(body: object) -> bool:
    """Tell whether a title has blanks that the service removes before it counts the characters.

    JSON Schema has no word for that, so the document may call valid what is not, and the reverse.
    """
    title = body.get("title") if isinstance(body, dict) else None
    return isinstance(title, str) and title != title.strip()


def differences(event: object) -> Iterator[str]:
    """Yield each difference from the document, and how to see it again."""
    if isinstance(event, events.ScenarioFinished):
        for case, checks in event.recorder.checks.items():
            blanks = has_blanks_around(event.recorder.cases[case].value.body)
            for check in checks:
                about_validity = check.name in (
                    "negative_data_rejection",
                    "positive_data_acceptance",
                )
                if (found := check.failure_info) and not (blanks and about_validity):
                    yield f"{check.name}: {found.failure.message}\n{found.code_sample}"
    elif isinstance(event, events.NonFatalError):
        yield f"{event.label}: {event.info.title}, {event.info.message}"
    elif isinstance(event, events.EngineFinished) and event.stop_reason is not StopReason.MAX_TIME:
        yield f"the run has ended early: {event.stop_reason}"


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_it_does_what_is_documented_and_nothing_else(
    database: Postgres, tmp_path: Path, run: Run
) -> None:
    sent: Counter[str] = Counter()
    found: list[str] = []
    with service(NEON_DATABASE_URL=database.create_database()) as running:
        settings = configuration(run, tmp_path / "users.json")
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json", config=settings)
        if "200" not in run.to_valid:
            schema = schema.exclude(path="/health")  # which is open to all
        for event in from_schema(schema).execute():
            found += differences(event)
            if isinstance(event, events.ScenarioFinished):
                sent[event.phase] += len(event.recorder.interactions)
    assert not found, "\n\n".join(found)
    assert set(sent) >= {"coverage", "fuzzing", "stateful"}, sent
