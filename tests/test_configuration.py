"""What is configured is what is used; a mistake is one line that holds no secret."""

import asyncio
import os
import re
import runpy
import socket
from typing import Any

import jwt
import pytest

import backend
from backend.auth.jwt import read_origin, read_secret
from backend.db import describe_database, find_database, parse_address
from tests.harness import FRONTEND, NOWHERE, PASSWORD, ROOT, SECRET, SETTINGS, token

PUBLISHED = "public-development-secret-for-the-embedded-database-only"


def run_module(file: str) -> dict[str, Any]:
    """Return what a module of the service defines when it is run anew, with the settings of now."""
    return runpy.run_path(str(ROOT / "backend" / file))


def refusal_of(refusal: pytest.ExceptionInfo[SystemExit]) -> str:
    """Return with which one line the service refuses to start."""
    line = str(refusal.value)
    assert line.count("\n") == 0
    for secret in (PASSWORD, SECRET, PUBLISHED):
        assert secret not in line
    return line


@pytest.mark.parametrize(
    "address",
    [
        "",
        PASSWORD,
        f"mysql://ada:{PASSWORD}@h/todo",
        f"sqlite:///{PASSWORD}.db",
        f"postgresql://ada:x@{PASSWORD}@h/todo",
        f"postgresql://ada:x/{PASSWORD}@h/todo",
        f"postgresql://ada:{PASSWORD}'x@h/todo",
        f'postgresql://ada:x"{PASSWORD}@h/todo',
        f"postgresql://ada:{PASSWORD} x@h/todo",
        f"postgresql://ada:{PASSWORD}%zz@h/todo",
        f"postgresql://ada:{PASSWORD}@[::1/todo",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(address):
    with pytest.raises(SystemExit) as refusal:
        parse_address(address)
    assert refusal_of(refusal).startswith("NEON_DATABASE_URL: must be ")


def test_a_parameter_that_libpq_does_not_know_is_named():
    with pytest.raises(SystemExit) as refusal:
        parse_address(f"{NOWHERE}?pgbouncer=true")
    assert 'parameter: "pgbouncer"' in refusal_of(refusal)


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
def test_an_address_is_understood_as_people_paste_it(spelling, scheme):
    place = "ada:p%40ss@ep-x-pooler.eu.example:5433/todo?sslmode=require&channel_binding=prefer"
    assert parse_address(spelling.format(f"{scheme}://{place}")) == {
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
def test_an_address_may_leave_things_out(address):
    assert parse_address(address)["dbname"] == "d"


@pytest.mark.parametrize("address", [NOWHERE, f" {NOWHERE}\n"])
def test_the_database_is_that_of_neon_database_url(monkeypatch, address):
    monkeypatch.setenv("NEON_DATABASE_URL", address)
    added = {"connect_timeout": "4", "client_encoding": "utf8"}
    assert find_database() == parse_address(NOWHERE) | added


@pytest.mark.parametrize("secret", [PUBLISHED, f"{PUBLISHED}\n", f"my-{PUBLISHED}"])
def test_the_published_secret_guards_no_database_but_the_embedded_one(monkeypatch, secret):
    monkeypatch.setenv("NEON_DATABASE_URL", NOWHERE)
    monkeypatch.setenv("BETTER_AUTH_SECRET", secret)
    with pytest.raises(SystemExit) as refusal:
        find_database()
    assert refusal_of(refusal).startswith("BETTER_AUTH_SECRET is the published one")


def test_the_published_secret_is_the_one_that_git_has():
    assert f"\nBETTER_AUTH_SECRET={PUBLISHED}\n" in (ROOT / ".env").read_text()


@pytest.mark.parametrize(
    ("real", "local", "expected"),
    [
        ({}, "", "file"),
        ({}, "DATABASE_URL=local", "local"),
        ({}, "NEON_DATABASE_URL=local", "local"),
        ({}, "DATABASE_URL=other\nNEON_DATABASE_URL=local", "local"),
        ({"DATABASE_URL": "real"}, "", "real"),
        ({"DATABASE_URL": "real"}, "NEON_DATABASE_URL=local", "real"),
        ({"NEON_DATABASE_URL": "real"}, "NEON_DATABASE_URL=local", "real"),
        ({"NEON_DATABASE_URL": "real"}, "DATABASE_URL=local", "real"),
        ({"NEON_DATABASE_URL": "real", "DATABASE_URL": "other"}, "", "real"),
    ],
)
def test_the_environment_comes_before_files_and_neon_before_database(
    tmp_path, monkeypatch, real, local, expected
):
    (tmp_path / ".env").write_text("NEON_DATABASE_URL=file\n")
    (tmp_path / ".env.local").write_text(local)
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    for name in ("NEON_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name)
    for name, value in real.items():
        monkeypatch.setenv(name, value)
    backend.load_settings()
    assert os.environ["NEON_DATABASE_URL"] == expected


def test_env_may_name_the_database_in_database_url(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DATABASE_URL=file\n")
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    for name in ("NEON_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name)
    backend.load_settings()
    assert os.environ["NEON_DATABASE_URL"] == "file"


def test_a_developers_env_local_sets_nothing_for_the_tests(tmp_path, monkeypatch):
    (tmp_path / ".env.local").write_text("\n".join(f"{name}=hostile" for name in SETTINGS))
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    before = dict(os.environ)
    backend.load_settings()
    assert dict(os.environ) == before


def test_the_tests_know_every_setting_of_the_service():
    files = (ROOT / "backend").rglob("*.py")
    source = "".join(file.read_text() for file in files)
    in_capitals_and_quotes = re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source)
    assert sorted(set(in_capitals_and_quotes)) == sorted(SETTINGS)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "\u0663", "10001", "1e3", " 5", "+5"])
def test_a_number_that_cannot_be_is_refused(monkeypatch, text):
    monkeypatch.setenv("SIZE", text)
    with pytest.raises(SystemExit) as refusal:
        backend.read_number("SIZE", default=20, most=10000)
    assert refusal_of(refusal) == "SIZE must be a whole number from 1 to 10000."


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("10000", 10000), ("", 20)])
def test_a_number_that_can_be_is_read(monkeypatch, text, number):
    monkeypatch.setenv("SIZE", text)
    assert backend.read_number("SIZE", default=20, most=10000) == number


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "at least 32 bytes"),
        (PASSWORD * 4, "at least 32 bytes"),
        ("x" * 31, "at least 32 bytes"),
        ("x" * 31 + "\n", "at least 32 bytes"),
        ("\u00fc" * 15 + "x", "at least 32 bytes"),
        (f"-----BEGIN PUBLIC KEY-----\n{PASSWORD}\n-----END PUBLIC KEY-----", "public key"),
        (f"-----BEGIN CERTIFICATE-----\n{PASSWORD}\n-----END CERTIFICATE-----\n", "public key"),
        (f"ssh-rsa {PASSWORD * 5}", "public key"),
    ],
)
def test_a_secret_with_which_hs256_is_not_safe_is_refused(monkeypatch, secret, problem):
    monkeypatch.setenv("BETTER_AUTH_SECRET", secret)
    with pytest.raises(SystemExit) as refusal:
        read_secret()
    assert refusal_of(refusal).startswith("BETTER_AUTH_SECRET must ")
    assert problem in str(refusal.value)


@pytest.mark.parametrize("secret", ["x" * 32, "\u00fc" * 16, " " + "x" * 30 + " "])
@pytest.mark.parametrize("line_break", ["", "\n", "\r\n"])
def test_a_secret_of_32_bytes_is_kept_without_the_line_break_at_its_end(
    monkeypatch, secret, line_break
):
    monkeypatch.setenv("BETTER_AUTH_SECRET", secret + line_break)
    assert read_secret() == secret


@pytest.mark.parametrize(
    "address",
    [
        "",
        "*",
        "localhost:3000",
        "http://",
        "http://localhost:port",
        "ftp://h",
        "http://*.h",
        f"https://ada:{PASSWORD}@h",
        f"https://{PASSWORD}@h",
        f"https://:{PASSWORD}@h",
    ],
)
def test_an_origin_is_an_http_address(address):
    with pytest.raises(SystemExit) as refusal:
        read_origin("BETTER_AUTH_URL", address)
    assert refusal_of(refusal).startswith("BETTER_AUTH_URL must be an address")


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        (" HTTPS://App.Example.com:443/auth/?x=y#z\n", "https://app.example.com"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://localhost:80", "http://localhost"),
        ("https://localhost:80", "https://localhost:80"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(address, origin):
    assert read_origin("BETTER_AUTH_URL", address) == origin


@pytest.mark.parametrize(
    ("file", "setting", "mistake"),
    [
        ("auth/jwt.py", "BETTER_AUTH_SECRET", PASSWORD * 4),
        ("auth/jwt.py", "BETTER_AUTH_URL", ""),
        ("auth/jwt.py", "BETTER_AUTH_JWKS_URL", f"file:///{PASSWORD}"),
        ("auth/jwt.py", "BETTER_AUTH_JWKS_URL", f"https://ada:{PASSWORD}@h/jwks"),
        ("db.py", "DATABASE_POOL_SIZE", "0"),
        ("db.py", "DATABASE_POOL_SIZE", "10000"),
        ("routes/tasks.py", "MAX_TASKS_PER_USER", "0"),
        ("routes/tasks.py", "MAX_TASKS_PER_USER", "1000001"),
        ("main.py", "BETTER_AUTH_TRUSTED_ORIGINS", f"{FRONTEND},https://*.{PASSWORD}.example"),
    ],
)
def test_a_module_refuses_a_mistake_in_its_setting(monkeypatch, file, setting, mistake):
    monkeypatch.setenv(setting, mistake)
    with pytest.raises(SystemExit) as refusal:
        run_module(file)
    assert refusal_of(refusal).startswith(f"{setting} must ")


@pytest.mark.parametrize(
    ("file", "setting", "name", "default"),
    [
        ("db.py", "DATABASE_POOL_SIZE", "POOL_SIZE", 20),
        ("routes/tasks.py", "MAX_TASKS_PER_USER", "MAX_TASKS", 10_000),
    ],
)
def test_a_number_is_that_of_its_setting(monkeypatch, file, setting, name, default):
    assert run_module(file)[name] == default
    monkeypatch.setenv(setting, "7")
    assert run_module(file)[name] == 7


@pytest.mark.parametrize("address", ["http://keys.example/jwks", " http://keys.example/jwks\n"])
def test_the_address_of_the_keys_may_have_blanks_around_it(monkeypatch, address):
    monkeypatch.setenv("BETTER_AUTH_JWKS_URL", address)
    assert run_module("auth/jwt.py")["KEYS_URL"] == "http://keys.example/jwks"


@pytest.mark.parametrize(
    ("settings", "issuer", "audience"),
    [
        ({}, FRONTEND, FRONTEND),
        ({"BETTER_AUTH_ISSUER": " me\n"}, "me", FRONTEND),
        ({"BETTER_AUTH_AUDIENCE": "you "}, FRONTEND, "you"),
        ({"BETTER_AUTH_ISSUER": "me", "BETTER_AUTH_AUDIENCE": "you"}, "me", "you"),
    ],
)
def test_issuer_and_audience_each_follow_their_setting(monkeypatch, settings, issuer, audience):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    verify = run_module("auth/jwt.py")["verify"]
    genuine = token(iss=issuer, aud=audience)
    assert asyncio.run(verify(genuine)).id == "ada"
    with pytest.raises(jwt.InvalidIssuerError):
        asyncio.run(verify(token(iss="else", aud=audience)))
    with pytest.raises(jwt.InvalidAudienceError):
        asyncio.run(verify(token(iss=issuer, aud="else")))


def test_a_service_that_cannot_start_says_one_line_and_ends_with_status_1(starting_in_vain):
    output, error = starting_in_vain.communicate(timeout=30)
    assert (starting_in_vain.returncode, output) == (1, "")
    assert error == (
        'The database cannot be used: connection to server at "127.0.0.1", port 1 failed: '
        "Connection refused\n"
    )


@pytest.fixture(scope="module")
def check(starting_check):
    """What `python -m backend.main` says where all is well."""
    output, error = starting_check.communicate(timeout=30)
    assert (starting_check.returncode, output, error.count("\n")) == (0, "", 1)
    return error


def test_a_start_says_in_one_line_what_is_in_use(check, mended_url):
    assert PASSWORD in mended_url
    assert check.partition(" INFO ")[2] == (
        f"database 127.0.0.1/{mended_url.rpartition('/')[2]}, "
        "issuer me, "
        "keys http://keys.example/jwks, "
        "origins http://localhost:3000 https://app.example.com http://[::1]:8080\n"
    )


@pytest.mark.usefixtures("check")
def test_a_start_leaves_no_rows_behind_whether_it_makes_the_tables_or_not(
    api, mended_url, database
):
    owners = "SELECT count(*) FROM {} WHERE {} = repeat(chr(10), 255)"
    for columns in (("users", "id"), ("tasks", "user_id")):
        for url in (api.database, mended_url):
            assert database.execute(owners.format(*columns), url=url) == [(0,)]


def test_the_embedded_database_is_called_so_with_its_folder(monkeypatch):
    monkeypatch.setenv("NEON_DATABASE_URL", "embedded")
    assert (
        describe_database({"host": "127.0.0.1", "dbname": "postgres"})
        == f"embedded in {ROOT / '.postgres'}"
    )


@pytest.mark.parametrize("file", ["auth/jwt.py", "db.py", "dependencies.py", "routes/tasks.py"])
def test_importing_a_module_touches_no_database_and_no_network(monkeypatch, file):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("NEON_DATABASE_URL", f"postgresql://127.0.0.1:{port}/todo")
        monkeypatch.setenv("BETTER_AUTH_URL", f"http://127.0.0.1:{port}")
        run_module(file)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
