"""Schemathesis holds the service to its OpenAPI document: it does that, and nothing else."""

import os
from collections.abc import Iterator

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
SECONDS = 20
# The statuses that a request may meet, and no other. An id with a slash in it is 404.
TO_VALID = ["200", "201", "204", "404"]
TO_INVALID = ["400", "401", "404"]


def configuration() -> schemathesis.Config:
    """Return Schemathesis's settings."""
    edges = {"dictionary": "edges", "probability": 0.1}
    parameters = {"path.user_id": "ada", "body.title": edges, "body.description": edges}
    return schemathesis.Config.from_dict(
        {
            "seed": 1,
            "workers": 1,  # several would send the same requests in another order each time
            "max-time": SECONDS,
            "continue-on-failure": True,
            "request-timeout": 15,
            "cache": {"enabled": False},
            "generation": {"database": "none"},
            "dictionaries": {"edges": {"values": EDGES}},
            "parameters": parameters,
            "headers": {"Authorization": f"Bearer {token('ada')}"},
            "checks": {  # All are on but one: the framework's 405 names the methods of one route.
                "allow_header_conformance": {"enabled": False},
                "positive_data_acceptance": {"expected-statuses": TO_VALID},
                "negative_data_rejection": {"expected-statuses": TO_INVALID},
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


def test_it_does_what_is_documented_and_nothing_else(database: Postgres) -> None:
    found: list[str] = []
    phases = set()
    with service(NEON_DATABASE_URL=database.create_database()) as running:
        settings = configuration()
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json", config=settings)
        for event in from_schema(schema).execute():
            found += differences(event)
            if isinstance(event, events.ScenarioFinished):
                phases.add(event.phase)
    assert not found, "\n\n".join(found)
    assert phases >= {"coverage", "fuzzing", "stateful"}
