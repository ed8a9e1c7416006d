"""The frontend of docs/frontend.md with a real Better Auth, people who use it, and a browser."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from programs import output_of, running_program

from tests.harness import ROOT, SECRET, Postgres, Service, free_port, service

DIRECTORY = Path(__file__).parent / "frontend"
PASSWORD = "correct horse battery staple"
GUIDE = (ROOT / "docs" / "frontend.md").read_text()
PLUGIN, SECRET_ROUTE, BOTH = "the jwt plugin", "a shared secret", "both"  # ways to get a token


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def program(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    return found or missing(f"{names[0]} is not installed")


def packages() -> Path:
    """Return the folder of the installed packages of frontend/."""
    folder = DIRECTORY / "node_modules"
    if not folder.is_dir():
        missing("there is no node_modules: run npm ci --prefix tests/system/frontend")
    return folder


def run(directory: Path, *command: str, **environment: str) -> str:
    """Run a program of the packages, or another one, in a folder; return what it prints."""
    programs = directory / "node_modules" / ".bin"
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return output_of(*command, cwd=directory, env=os.environ | path | environment)


def blocks(language: str) -> list[str]:
    """Return the programs in docs/frontend.md that are fenced as this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def modules(way: str) -> dict[str, str]:
    """Return the TypeScript of one way by the names of its files, which its first lines say."""
    found = {block.partition("\n")[0].removeprefix("// "): block for block in blocks("ts")}
    if way == PLUGIN:
        del found["app/api/auth/token/route.ts"]
    if way == SECRET_ROUTE:
        lines = found["lib/auth.ts"].splitlines(keepends=True)
        found["lib/auth.ts"] = "".join(line for line in lines if "jwt" not in line)
    return found


def write_modules(folder: Path, way: str) -> None:
    """Make a folder like that of a Next.js app with the modules of docs/frontend.md."""
    (folder / "node_modules").symlink_to(packages())
    for name in ("package.json", "tsconfig.json", "page.ts", "server.mjs"):
        shutil.copy(DIRECTORY / name, folder)
    for name, text in modules(way).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Frontend:
    """A frontend, and the people who use it."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.url = f"http://localhost:{port}"
        self.log = log
        self.people: list[Person] = []

    def sign_up(self, origin: str = "") -> "Person":
        """Return somebody new, who uses the frontend at this origin."""
        self.people.append(Person(origin or self.url, f"{len(self.people)}@example.com"))
        return self.people[-1]


class Person:
    """Somebody with a session at a frontend."""

    def __init__(self, origin: str, email: str) -> None:
        self.client = httpx.Client(base_url=origin, headers={"Origin": origin}, timeout=10)
        self.email = email
        body = {"email": email, "password": PASSWORD, "name": "Zoë Ñandú"}
        self.signed_up = self.post("/sign-up/email", body)
        self.id: str = self.signed_up.json()["user"]["id"]

    def post(self, path: str, body: dict[str, str]) -> httpx.Response:
        response = self.client.post(f"/api/auth{path}", json=body)
        assert response.is_success, response.text
        return response

    def token(self) -> str:
        return str(self.client.get("/api/auth/token").json()["token"])

    def cookie(self, name: str) -> str:
        """Return the value of one of Better Auth's cookies."""
        cookies = {cookie.name: cookie.value for cookie in self.client.cookies.jar}
        return cookies[f"better-auth.{name}"] or ""

    def ask(
        self, backend: Service, method: str = "GET", path: str = "", token: str = "", **sent: Any
    ) -> httpx.Response:
        """Send a request with this token, or a new one, to this person's tasks."""
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        url = f"/api/{self.id}/tasks{path}"
        return backend.client.request(method, url, headers=headers, **sent)


@contextmanager
def frontend(database: str, way: str = PLUGIN, **more: Any) -> Iterator[Frontend]:
    """Serve the frontend of docs/frontend.md with Node.

    `more` are further `options` of Better Auth, and other options of its plugin `jwt`.
    """
    port = free_port()
    settings = {
        "PORT": str(port),
        "DATABASE_URL": database,
        "BETTER_AUTH_URL": f"http://localhost:{port}",
        "BETTER_AUTH_SECRET": SECRET,
        "MORE": json.dumps(more),
    }
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_modules(folder, way)
        if more:
            (folder / "lib" / "auth.ts").rename(folder / "lib" / "documented.ts")
            shutil.copy(DIRECTORY / "auth.ts", folder / "lib")
        with running_program(
            [program("node"), "server.mjs"],
            lambda: httpx.get(f"http://localhost:{port}").is_success,
            seconds=30,
            cwd=folder,
            env=os.environ | settings,
        ) as log:
            home = Frontend(port, log)
            yield home
            for person in home.people:
                person.client.close()


@contextmanager
def together(
    server: Postgres, way: str = PLUGIN, settings: dict[str, str] | None = None, **more: Any
) -> Iterator[tuple[Frontend, Service]]:
    """Start a frontend, and then the service with its address, with one database for both."""
    url = server.create_database()
    with (
        frontend(url, way, **more) as home,
        service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=home.url, **settings or {}) as backend,
    ):
        yield home, backend


def browse(scenario: str, page: str, given: object = None) -> dict[str, Any]:
    """Let a headless Chromium do a scenario of browser.mjs on this page; return what it saw."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    command = [program("node"), "browser.mjs", scenario, chromium, page, json.dumps(given)]
    process = subprocess.Popen(
        command, cwd=DIRECTORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.terminate()  # upon which Playwright ends the browser
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, f"{scenario}: {errors}"
    return dict(json.loads(output))
