"""The embedded PostgreSQL ends with the service, and survives whatever was left behind."""

import os
import pwd
import shutil
import signal
import subprocess
import time

import pytest

from backend import embedded
from tests.clones import STOPPED, Clone, parameters_of

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
root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a process of another user"
)


@pytest.fixture
def clone(tmp_path):
    clone = Clone(tmp_path / "clone")
    yield clone
    try:
        clone.wait_until_nothing_runs()
    finally:
        for process in clone.processes():
            process.kill()


def leave(user):
    """End a process that uses the PostgreSQL, as nothing can prevent."""
    user.kill()
    user.communicate()


# Whoever runs the tests, such as nohup, may have told all its processes to ignore a signal.
HEARS_SIGNALS = ("env", "--default-signal=HUP,INT")
WORKERS = ("--workers", "4")
ENDS = [
    ((), "SIGTERM"),
    ((), "SIGINT"),
    ((), "SIGHUP"),
    ((), "SIGKILL"),
    (WORKERS, "SIGTERM"),
    (WORKERS, "SIGINT"),
    (WORKERS, "SIGKILL"),  # SIGHUP asks uvicorn for new workers.
    (("--reload",), "SIGINT"),
    (("--reload",), "SIGHUP"),
    (("--reload",), "SIGKILL"),
]


@pytest.mark.parametrize(("options", "name"), ENDS)
def test_nothing_is_left_and_no_task_lost_after_a_signal_to_the_whole_terminal(
    clone, options, name
):
    api = clone.start(*options, prefix=HEARS_SIGNALS)
    task = api.request("POST", json={"title": "x"}).json()
    os.killpg(api.process.pid, signal.Signals[name])
    clone.wait_until_nothing_runs(STOPPED + 10)
    api.stop()
    api = clone.start()
    assert api.request("GET").json() == [task]
    api.stop()


def test_start_and_stop_of_postgresql_are_not_heard(clone):
    user = clone.use()
    assert parameters_of(user)
    assert user.communicate() == ("", "")


def test_a_reload_keeps_the_server(clone):
    api = clone.start("--reload")
    server = clone.server()
    api.request("POST", json={"title": "x"})
    (clone.folder / "backend" / "models.py").touch()
    end = time.monotonic() + 20
    while "Reloading" not in api.output() or api.output().count("startup complete") < 2:
        assert time.monotonic() < end, api.output()
        time.sleep(0.1)
    time.sleep(embedded.GRACE + 1)
    assert len(api.request("GET").json()) == 1
    assert server == clone.server()
    api.stop()


def test_two_services_of_a_clone_share_a_server_until_the_last_one_ends(clone):
    one, other = clone.start(), clone.start()
    task = one.request("POST", json={"title": "x"}).json()
    one.process.kill()
    one.stop()
    time.sleep(embedded.GRACE + 2)
    assert other.request("GET").json() == [task]
    other.stop()


def test_services_that_end_at_once_leave_nothing(clone):
    users = [clone.use() for _ in range(4)]
    for user in users:
        parameters_of(user)
    for user in users:
        user.kill()
    for user in users:
        user.communicate()
    clone.wait_until_nothing_runs()


def test_a_forked_child_that_ends_does_not_leave_for_its_parent(clone):
    user = clone.use()
    server = clone.server() if parameters_of(user) else None
    user.stdin.write("fork\n")
    user.stdin.flush()
    assert user.stdout.readline() == "forked\n"
    passer_by = clone.use()
    parameters_of(passer_by)
    leave(passer_by)
    time.sleep(embedded.GRACE + 2)
    assert server.is_running()
    leave(user)


def test_the_next_start_makes_a_new_keeper_where_one_was_killed(clone):
    first = clone.use()
    parameters = parameters_of(first)
    for keeper in clone.keepers():
        keeper.kill()
    leave(first)
    second = clone.use()
    assert parameters_of(second) == parameters
    leave(second)


def test_a_service_killed_while_postgresql_is_made_leaves_nothing_and_spoils_nothing(clone):
    for seconds in (0.2, 0.35, 0.5, 0.65, 0.8):
        user = clone.use()
        time.sleep(seconds)
        leave(user)
    clone.wait_until_nothing_runs()
    user = clone.use()
    assert parameters_of(user)
    leave(user)


def test_a_half_made_folder_does_not_spoil_the_next_start(clone):
    half = clone.folder / ".postgres" / "new" / "base"
    half.mkdir(parents=True)
    user = clone.use()
    assert parameters_of(user)
    leave(user)


def test_a_number_left_by_a_power_cut_is_not_signalled_when_it_is_another_process(clone):
    user = clone.use()
    parameters_of(user)
    left = (clone.data / "postmaster.pid").read_text().split("\n")
    leave(user)
    clone.wait_until_nothing_runs()
    owner = clone.data.stat().st_uid
    with subprocess.Popen(
        ["sleep", "30"], user=owner if owner != os.geteuid() else None
    ) as bystander:
        (clone.data / "postmaster.pid").write_text("\n".join([str(bystander.pid), *left[1:]]))
        user = clone.use()
        assert parameters_of(user)
        leave(user)
        clone.wait_until_nothing_runs()
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("content", ["", "\0" * 80, "x\n"])
def test_a_broken_pid_file_does_not_spoil_the_next_start(clone, content):
    user = clone.use()
    parameters_of(user)
    leave(user)
    clone.wait_until_nothing_runs()
    (clone.data / "postmaster.pid").write_text(content)
    user = clone.use()
    assert parameters_of(user)
    leave(user)


@pytest.mark.parametrize("children", [True, False], ids=["with its children", "alone"])
def test_a_server_killed_with_9_recovers_what_was_acknowledged(clone, children):
    api = clone.start()
    task = api.request("POST", json={"title": "x"}).json()
    server = clone.server()
    for process in [server, *(server.children() if children else [])]:
        process.kill()
    api.process.kill()
    api.stop()
    time.sleep(0.5)
    api = clone.start()
    assert api.request("GET").json() == [task]
    api.stop()


def test_a_second_server_never_runs_on_the_same_data(clone):
    user = clone.use()
    parameters_of(user)
    (clone.data / "postmaster.pid").rename(clone.data / "elsewhere")
    assert "shared memory" in clone.refusal()
    (clone.data / "elsewhere").rename(clone.data / "postmaster.pid")
    leave(user)


def test_a_clone_may_be_moved_while_it_is_stopped(clone, tmp_path):
    api = clone.start()
    task = api.request("POST", json={"title": "x"}).json()
    api.stop()
    clone.wait_until_nothing_runs()
    shutil.move(clone.folder, tmp_path / "moved to (here)")
    clone.folder = tmp_path / "moved to (here)"
    api = clone.start()
    assert api.request("GET").json() == [task]
    api.stop()


def test_a_deleted_folder_ends_its_server_and_the_next_start_makes_a_new_one(clone):
    user = clone.use()
    parameters = parameters_of(user)
    server = clone.server()
    shutil.rmtree(clone.folder / ".postgres")
    leave(user)
    another = clone.use()
    assert parameters_of(another)["password"] != parameters["password"]
    server.wait(90)  # PostgreSQL looks for its folder once a minute.
    leave(another)


def test_data_of_another_major_version_are_refused_in_one_line_and_kept(clone):
    user = clone.use()
    parameters_of(user)
    leave(user)
    clone.wait_until_nothing_runs()
    (clone.data / "PG_VERSION").write_text("17\n")
    assert "PostgreSQL version 17" in clone.refusal()
    (clone.data / "PG_VERSION").write_text("18\n")
    user = clone.use()
    assert parameters_of(user)
    leave(user)


def test_what_an_earlier_launcher_left_in_the_folder_is_kept(clone):
    folder = clone.folder / ".postgres"
    (folder / "base").mkdir(parents=True)
    (folder / "PG_VERSION").write_text("18\n")
    user = clone.use()
    assert parameters_of(user)
    leave(user)
    assert (folder / "PG_VERSION").read_text() == "18\n"
    assert (folder / "base").is_dir()


@root_only
def test_two_users_of_a_machine_have_a_server_each_at_the_same_time(clone, tmp_path):
    theirs = Clone(tmp_path / "theirs")
    theirs.give_to(ANOTHER_USER)
    api, other = clone.start(), theirs.start(prefix=AS_ANOTHER_USER)
    task = api.request("POST", json={"title": "x"}).json()
    assert other.request("GET").json() == []
    assert theirs.server().uids().real == ANOTHER_USER
    api.stop()
    other.stop()
    theirs.wait_until_nothing_runs()
    assert task["title"] == "x"


@root_only
def test_root_opens_no_folder_to_others(clone, tmp_path):
    folders = [tmp_path, *tmp_path.parents, clone.folder]
    tmp_path.chmod(0o700)
    before = [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders]
    user = clone.use()
    assert parameters_of(user)
    assert clone.server().uids().real == embedded.NOBODY
    leave(user)
    assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders] == before


@root_only
def test_root_without_setpriv_is_told_so_in_one_line(clone, tmp_path):
    assert "setpriv" in clone.refusal(PATH=str(tmp_path))


@root_only
def test_a_clone_that_may_not_be_written_is_one_line(clone):
    assert "Permission denied" in clone.refusal(AS_ANOTHER_USER)


@root_only
def test_the_folder_of_another_user_is_one_line(clone):
    user = clone.use()
    parameters_of(user)
    assert "Permission denied" in clone.refusal(AS_ANOTHER_USER)
    leave(user)
