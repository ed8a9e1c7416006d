"""What is configured is what is used; what cannot be right is one line, exit status 1, and no secret in it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, SECRET, environment_of_service, free_port

PUBLIC = "public-development-secret-for-the-embedded-database-only"
SOMEWHERE = "postgresql://ada:hunter2@127.0.0.1:1/todo"
REFUSED = {
    "no database": ({"NEON_DATABASE_URL": ""}, "NEON_DATABASE_URL"),
    "unknown parameter": (
        {"NEON_DATABASE_URL": f"{SOMEWHERE}?pgbouncer=true"},
        'parameter: "pgbouncer"',
    ),
    "raw @ in the password": (
        {"NEON_DATABASE_URL": "postgresql://ada:x@hunter2@h/todo"},
        "NEON_DATABASE_URL",
    ),
    "database down": ({"NEON_DATABASE_URL": SOMEWHERE}, "Connection refused"),
    "pool of none": (
        {"NEON_DATABASE_URL": SOMEWHERE, "DATABASE_POOL_SIZE": "0"},
        "DATABASE_POOL_SIZE",
    ),
    "short secret": ({"BETTER_AUTH_SECRET": "hunter2" * 4}, "BETTER_AUTH_SECRET"),
    "published secret": (
        {"NEON_DATABASE_URL": SOMEWHERE, "BETTER_AUTH_SECRET": PUBLIC},
        "BETTER_AUTH_SECRET",
    ),
    "no frontend": ({"BETTER_AUTH_URL": ""}, "BETTER_AUTH_URL"),
    "any origin": (
        {"BETTER_AUTH_TRUSTED_ORIGINS": "https://*.example.com"},
        "BETTER_AUTH_TRUSTED_ORIGINS",
    ),
    "keys in a file": ({"BETTER_AUTH_JWKS_URL": "file:///etc/passwd"}, "BETTER_AUTH_JWKS_URL"),
}


@pytest.fixture(scope="module")
def refusals(database) -> dict[str, subprocess.Popen[str]]:
    """The service started once with each mistake, all of them side by side."""

    def start(settings: dict[str, str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "uvicorn", "backend.main:app", "--port", str(free_port())]
        environment = environment_of_service(**{"NEON_DATABASE_URL": database.url} | settings)
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return {name: start(settings) for name, (settings, _) in REFUSED.items()}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_line_with_exit_status_1(refusals, mistake):
    output, error = refusals[mistake].communicate(timeout=30)
    assert (refusals[mistake].returncode, output) == (1, "")
    assert error.count("\n") == 1
    assert REFUSED[mistake][1] in error
    for secret in ("hunter2", SECRET, PUBLIC):
        assert secret not in error


@pytest.fixture
def parameters(monkeypatch):
    """How the service reads its environment, in this process: libpq's parameters for these settings."""

    def read(**settings: str) -> dict[str, str]:
        for name in ("NEON_DATABASE_URL", "DATABASE_URL", "DATABASE_POOL_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"BETTER_AUTH_SECRET": SECRET} | settings).items():
            monkeypatch.setenv(name, value)
        importlib.reload(importlib.import_module("backend"))
        return dict(importlib.reload(importlib.import_module("backend.db")).parameters)

    return read


@pytest.mark.parametrize(
    "address",
    [
        "hunter2",
        "mysql://ada:hunter2@h/todo",
        "sqlite:///hunter2.db",
        "postgresql://ada:x/hunter2@h/todo",
        "postgresql://ada:hunter2'x@h/todo",
        'postgresql://ada:x"hunter2@h/todo',
        "postgresql://ada:hunter2 x@h/todo",
        "postgresql://ada:hunter2%zz@h/todo",
        "postgresql://ada:hunter2@[::1/todo",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(parameters, address):
    with pytest.raises(SystemExit) as refusal:
        parameters(NEON_DATABASE_URL=address)
    assert str(refusal.value).startswith("NEON_DATABASE_URL: ")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("size", ["-1", "many", "1.5", "\u0663", "10000"])
def test_a_pool_has_a_whole_number_of_connections(parameters, size):
    with pytest.raises(SystemExit, match="DATABASE_POOL_SIZE"):
        parameters(NEON_DATABASE_URL=SOMEWHERE, DATABASE_POOL_SIZE=size)


@pytest.mark.parametrize(
    "address",
    ["", "*", "localhost:3000", "http://", "http://localhost:port", "ftp://h", "http://*.h"],
)
def test_an_origin_is_an_http_address(parameters, address):
    parameters(NEON_DATABASE_URL=SOMEWHERE)
    with pytest.raises(SystemExit, match="BETTER_AUTH_URL must be an address"):
        importlib.import_module("backend.auth.jwt").origin("BETTER_AUTH_URL", address)


@pytest.mark.parametrize(
    "spelling",
    [
        "{}",
        "'{}'",
        '"{}"\n',
        " {}\r\n",
        "psql '{}'",
        'psql "{}"',
        "psql {}",
        "DATABASE_URL={}",
    ],
)
@pytest.mark.parametrize(
    "scheme",
    ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"],
)
def test_an_address_is_understood_as_people_paste_it(parameters, spelling, scheme):
    address = f"{scheme}://ada:p%40ss@ep-x-pooler.eu.example:5433/todo?sslmode=require&channel_binding=prefer"
    assert parameters(NEON_DATABASE_URL=spelling.format(address)) == {
        "user": "ada",
        "password": "p@ss",
        "host": "ep-x-pooler.eu.example",
        "port": "5433",
        "dbname": "todo",
        "sslmode": "require",
        "channel_binding": "prefer",
    }


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://h/d",
        "postgresql://ada@h/d",
        "postgresql:///d?host=/run/pg",
        "postgres://[::1]/d",
    ],
)
def test_an_address_may_leave_things_out(parameters, address):
    assert parameters(NEON_DATABASE_URL=address)["dbname"] == "d"


def test_the_real_environment_comes_before_files_and_neon_before_database(
    parameters, tmp_path, monkeypatch
):
    def host(local: str = "", **settings: str) -> str:
        """Load the settings, and files beside a copy of the package; return the host of the database."""
        monkeypatch.setattr("dotenv.main.find_dotenv", lambda: "")
        import dotenv

        real = dotenv.load_dotenv

        def load(path: Path) -> bool:
            (tmp_path / ".env").write_text("NEON_DATABASE_URL=postgresql://file/d\n")
            (tmp_path / ".env.local").write_text(local)
            return real(tmp_path / path.name)

        monkeypatch.setattr(dotenv, "load_dotenv", load)
        found = parameters(**settings)["host"]
        monkeypatch.setattr(dotenv, "load_dotenv", real)
        return found

    assert host() == "file"
    assert host(DATABASE_URL="postgresql://real/d") == "real"
    assert (
        host(NEON_DATABASE_URL="postgresql://neon/d", DATABASE_URL="postgresql://real/d") == "neon"
    )
    assert host("DATABASE_URL=postgresql://local/d") == "local"
    assert host("NEON_DATABASE_URL=postgresql://local/d") == "local"
    assert (
        host("NEON_DATABASE_URL=postgresql://local/d", DATABASE_URL="postgresql://real/d") == "real"
    )
