"""What the tests with the real Better Auth start: its server, people there, and a browser."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness import SECRET, free_port

DIRECTORY = Path(__file__).parent / "frontend"
PASSWORD = "correct horse battery staple"


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


class Person:
    """Somebody with a session at a frontend."""

    def __init__(self, frontend: "Frontend", name: str, email: str) -> None:
        self.auth = urlsplit(frontend.url).path or "/api/auth"
        self.client = httpx.Client(
            base_url=frontend.origin, headers={"Origin": frontend.origin}, timeout=10
        )
        self.name, self.email = name, email
        self.signed_up = self.post("/sign-up/email", name=name, email=email, password=PASSWORD)
        self.id: str = self.signed_up.json()["user"]["id"]

    def get(self, path: str, **parameters: str) -> httpx.Response:
        return self._checked(self.client.get(self.auth + path, params=parameters))

    def post(self, path: str, **body: str) -> httpx.Response:
        return self._checked(self.client.post(self.auth + path, json=body))

    @staticmethod
    def _checked(response: httpx.Response) -> httpx.Response:
        assert response.status_code in (200, 302), response.text
        return response

    def published(self) -> str:
        """Return an access token of the jwt plugin, signed with the key in use."""
        return str(self.get("/token").json()["token"])

    def shared(self, **parameters: str) -> str:
        """Return a token that the frontend's own route signs with the shared secret."""
        return str(self._checked(self.client.get("/token", params=parameters)).json()["token"])

    def cookie(self, name: str) -> str:
        """Return the value of one of Better Auth's cookies."""
        cookies = {cookie.name: cookie.value for cookie in self.client.cookies.jar}
        return cookies[f"better-auth.{name}"] or ""

    @property
    def tasks(self) -> str:
        return f"/api/{self.id}/tasks"


class Frontend:
    """The Node server, with the shared secret of the harness.

    `path` is what its address has behind the origin.
    """

    def __init__(self, path: str = "", **environment: str) -> None:
        node = program("node")
        packages()
        self.port = free_port()
        self.origin = f"http://localhost:{self.port}"
        self.url = self.origin + path
        settings = {
            "PORT": str(self.port),
            "BETTER_AUTH_URL": self.url,
            "BETTER_AUTH_SECRET": SECRET,
        } | environment
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            [node, "server.mjs"],
            cwd=DIRECTORY,
            env=os.environ | settings,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.people: list[Person] = []

    def wait_until_up(self) -> "Frontend":
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(httpx.TransportError):
                self.control()
                return self
            time.sleep(0.02)
        raise AssertionError(f"the frontend does not answer: {Path(self.log.name).read_text()}")

    def stop(self) -> None:
        for person in self.people:
            person.client.close()
        self.process.kill()
        self.process.wait(10)
        self.log.close()

    def sign_up(self, name: str = "Zoë Ñandú", email: str = "") -> Person:
        self.people.append(Person(self, name, email or f"{len(self.people)}@example.com"))
        return self.people[-1]

    def control(self) -> dict[str, Any]:
        """Return what the server counted: its `fetches` of the keys, and the tokens it `mailed`."""
        return dict(httpx.get(f"{self.origin}/control").json())

    @property
    def fetches(self) -> int:
        return int(self.control()["fetches"])

    def mailed(self, kind: str) -> str:
        """Return the token of the last e-mail of this kind."""
        tokens = [mail["token"] for mail in self.control()["mailed"] if mail["kind"] == kind]
        return str(tokens[-1])

    def keys(self, mode: str) -> None:
        """Let the key endpoint be normal, down (503), html, or hanging."""
        httpx.post(f"{self.origin}/control/keys", params={"mode": mode}).raise_for_status()

    def rotate_keys(self) -> None:
        """Let the jwt plugin make a new key for its next token; the old one stays published."""
        httpx.post(f"{self.origin}/control/rotate").raise_for_status()

    def withdraw_keys(self) -> None:
        """Let the jwt plugin forget its keys."""
        httpx.post(f"{self.origin}/control/withdraw").raise_for_status()


@contextmanager
def frontend(path: str = "", **environment: str) -> Iterator[Frontend]:
    running = Frontend(path, **environment)
    try:
        yield running.wait_until_up()
    finally:
        running.stop()


def until(happened: Callable[[], bool], seconds: float) -> None:
    """Ask again and again; fail if it has not happened within these seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def browse(scenario: str, page: str, argument: str) -> dict[str, Any]:
    """Let a headless Chromium do a scenario of browser.mjs on this page; return what it saw."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    command = [program("node"), "browser.mjs", scenario, chromium, page, argument]
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
