"""What is configured is used, and a mistake is one line without secrets; the stop, and the log."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

import backend
from backend import embedded
from tests import COPY, environment_of_service
from tests.harness import FRONTEND, NOWHERE, PASSWORD, ROOT, SECRET, TRUSTED, token, wait_until

PUBLIC = "public-development-secret-for-the-embedded-database-only"
SETTINGS = ("NEON_DATABASE_URL", "DATABASE_URL", "BETTER_AUTH_SECRET", "BETTER_AUTH_URL")


@pytest.fixture
def read(monkeypatch):
    """Read the settings from an environment, and from files that lie beside the service."""
    files = []

    def read_settings(local=b"", file=b"", **environment):
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, content in ((".env.local", local), (".env", file)):
            files.append(COPY / name)
            (COPY / name).write_bytes(content)
        return backend.read_settings()

    yield read_settings
    for file in files:
        file.unlink(missing_ok=True)


GOOD = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": FRONTEND, "DATABASE_URL": NOWHERE}
NO_ORIGIN = "must be an origin such as https://app.example.com, without a path."
NO_ADDRESS = (
    "must be embedded, or the address of a PostgreSQL, with the password percent-encoded"
    " and no parameters but libpq's."
)


def refusal_of(read, **arguments):
    """Return the one line with which the service refuses to start."""
    with pytest.raises(SystemExit) as refusal:
        read(**arguments)
    line = str(refusal.value)
    assert "\n" not in line
    for secret in (PASSWORD, SECRET, PUBLIC):
        assert secret not in line
    return line


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BETTER_AUTH_SECRET", "x" * 31 + "\n", "String should have at least 32 characters."),
        ("BETTER_AUTH_URL", "localhost:3000", "URL scheme should be 'http' or 'https'."),
        ("BETTER_AUTH_URL", "https://app.example.com/auth", NO_ORIGIN),
        ("BETTER_AUTH_URL", f"https://ada:{PASSWORD}@h", NO_ORIGIN),
        ("BETTER_AUTH_TRUSTED_ORIGINS", "*", "Input should be a valid URL, relative URL"),
        ("BETTER_AUTH_TRUSTED_ORIGINS", f"{FRONTEND},https://*.example.com", NO_ORIGIN),
        ("BETTER_AUTH_JWKS_URL", "keys", "String should match pattern"),
        ("BETTER_AUTH_JWKS_URL", f"https://ada:{PASSWORD}@h/jwks", "String should match pattern"),
        ("DATABASE_POOL_SIZE", "0", "Input should be greater than 0."),
        ("DATABASE_URL", f"mysql://ada:{PASSWORD}@h/todo", NO_ADDRESS),
        ("NEON_DATABASE_URL", f"postgresql://ada:x@{PASSWORD}@h/todo", NO_ADDRESS),
        ("NEON_DATABASE_URL", f"postgresql://ada:x/{PASSWORD}@h/todo", NO_ADDRESS),
        ("NEON_DATABASE_URL", f"postgresql://ada:{PASSWORD}%zz@h/todo", NO_ADDRESS),
        ("NEON_DATABASE_URL", f"postgresql://ada:{PASSWORD}@h/todo?schema=public", NO_ADDRESS),
    ],
)
def test_a_mistake_is_one_line_that_names_the_variable_and_its_place(read, name, value, line):
    assert refusal_of(read, **GOOD | {name: value}).startswith(
        f"{name}, from the environment: {line}"
    )


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("BETTER_AUTH_SECRET", "what `openssl rand -base64 32` prints"),
        ("BETTER_AUTH_URL", "https://app.example.com"),
        ("DATABASE_URL", "postgresql://user:password@host/database"),
    ],
)
@pytest.mark.parametrize("how", ["unset", "empty"])
def test_a_variable_that_is_not_set_is_said_with_an_example(read, name, example, how):
    settings = {key: value for key, value in GOOD.items() if key != name}
    if how == "empty":
        settings[name] = ""
    named = name.replace("DATABASE_URL", "NEON_DATABASE_URL")
    assert refusal_of(read, **settings) == f"{named} is not set. An example: {example}"


def test_a_mistake_in_a_file_is_said_to_be_there(read):
    assert refusal_of(
        read, local=b"BETTER_AUTH_SECRET=hunter2", file=(ROOT / ".env").read_bytes()
    ) == ("BETTER_AUTH_SECRET, from .env.local or .env: String should have at least 32 characters.")
    local = f"DATABASE_URL=sqlite:///{PASSWORD}".encode()
    assert refusal_of(read, local=local, file=(ROOT / ".env").read_bytes()).startswith(
        "NEON_DATABASE_URL or DATABASE_URL, from .env.local or .env: must be embedded, or"
    )


@pytest.mark.parametrize(
    ("local", "environment", "named"),
    [
        ("", {"DATABASE_URL": "postgresql://x@h/y"}, "DATABASE_URL, from the environment"),
        ("", {"NEON_DATABASE_URL": NOWHERE}, "NEON_DATABASE_URL, from the environment"),
        (
            f"NEON_DATABASE_URL={NOWHERE}",
            {},
            "NEON_DATABASE_URL or DATABASE_URL, from .env.local or .env",
        ),
    ],
)
def test_the_public_secret_is_for_the_embedded_database_only(read, local, environment, named):
    line = refusal_of(read, local=local.encode(), file=(ROOT / ".env").read_bytes(), **environment)
    assert line == (
        f"{named}: names a database of your own, so set BETTER_AUTH_SECRET to the frontend's"
        " secret, which `openssl rand -base64 32` makes, instead of the public one in .env."
    )


@pytest.mark.parametrize("content", [b"\xff\xfeB\0E\0", b"BETTER_AUTH_URL=\xe9"])
def test_a_file_that_is_not_utf_8_is_one_line(read, content):
    assert refusal_of(read, local=content, **GOOD).startswith(".env.local or .env cannot be read: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_one_line(read):
    read(**GOOD)
    (COPY / ".env.local").chmod(0)
    with pytest.raises(SystemExit, match="Permission denied"):
        backend.read_settings()


@pytest.mark.parametrize(
    ("environment", "local", "expected"),
    [
        ({}, "", "embedded"),
        ({}, "DATABASE_URL=postgresql://local", "local"),
        ({}, "NEON_DATABASE_URL=postgresql://local", "local"),
        ({}, "\ufeffNEON_DATABASE_URL=postgresql://local", "local"),
        ({"DATABASE_URL": "postgresql://real"}, "NEON_DATABASE_URL=postgresql://local", "real"),
        ({"NEON_DATABASE_URL": "postgresql://real"}, "DATABASE_URL=postgresql://local", "real"),
        ({"NEON_DATABASE_URL": "postgresql://real", "DATABASE_URL": "x"}, "", "real"),
        ({"NEON_DATABASE_URL": "", "DATABASE_URL": "postgresql://real"}, "", "real"),
    ],
)
def test_the_environment_comes_before_files_and_neon_before_database(
    read, environment, local, expected
):
    secret = f"\nBETTER_AUTH_SECRET={SECRET}"
    file = (ROOT / ".env").read_bytes()
    url = read(local=(local + secret).encode(), file=file, **environment).database_url
    assert url.removeprefix("postgresql://") == expected


def test_blanks_and_line_breaks_around_a_setting_are_dropped(read):
    given = {"BETTER_AUTH_SECRET": f"{SECRET}\r\n", "DATABASE_URL": " embedded\n"}
    settings = read(**GOOD | given)
    assert (settings.better_auth_secret, settings.database_url) == (SECRET, "embedded")


def test_the_public_secret_is_the_one_that_git_has(read):
    file = (ROOT / ".env").read_bytes()
    assert read(file=file).better_auth_secret == PUBLIC
    assert read(file=file).database_url == "embedded"


@pytest.mark.parametrize(
    "spelling",
    [
        "postgres{}",
        "postgresql+asyncpg{}",
        "'postgresql{}'",
        '"postgresql{}"\n',
        " postgresql{}\r\n",
        "psql 'postgresql{}'",
    ],
)
def test_an_address_is_understood_as_people_paste_it(read, spelling):
    place = "://ada:p%40ss@ep-x-pooler.eu.example:5433/todo?sslmode=require"
    settings = read(**GOOD | {"DATABASE_URL": spelling.format(place)})
    assert settings.database_url == f"postgresql{place}"


def test_origins_are_written_as_browsers_write_them(read):
    trusted = {"BETTER_AUTH_TRUSTED_ORIGINS": f" {TRUSTED} http://x:443 ,http://y:80,https://z:443"}
    settings = read(**GOOD | {"BETTER_AUTH_URL": " HTTPS://App.Example.com:8443/"} | trusted)
    assert settings.origins == [
        "https://app.example.com:8443",
        "https://app.example.com",
        "http://[::1]:8080",
        "http://x:443",
        "http://y",
        "https://z",
    ]


def run(*command, **settings):
    return subprocess.run(
        [sys.executable, *command],
        cwd=COPY,
        env=environment_of_service(**settings),
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_service_that_cannot_start_says_one_line_and_ends_with_status_1():
    done = run("-m", "uvicorn", "backend.main:app", "--port", "0", DATABASE_URL="sqlite:///x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"DATABASE_URL, from the environment: {NO_ADDRESS}\n"


def test_a_start_says_in_one_line_what_is_in_use(api):
    (line,) = [line for line in api.output().splitlines() if " INFO database " in line]
    origins = "['http://localhost:3000', 'https://app.example.com', 'http://[::1]:8080']"
    assert line.partition(" INFO ")[2] == (
        f"database 127.0.0.1/{api.database.rpartition('/')[2]}, issuers {origins}, "
        f"keys http://127.0.0.1:1/keys, origins {origins}"
    )


def test_the_command_prints_a_token_that_is_good_for_an_hour(api):
    done = run("-m", "backend.auth.jwt", "ada", NEON_DATABASE_URL=NOWHERE)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert api.request("GET", bearer=done.stdout.strip()).status_code == 200


def test_the_bare_address_leads_to_the_docs_under_a_path_too(api, remote):
    for service, path in ((api, ""), (remote, "/todo")):
        answer = service.client.get("/", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.headers["Location"]) == (307, f"{path}/docs")
        assert f"'{path}/openapi.json'" in service.client.get("/docs").text


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
CLIENTS = "SELECT pid FROM pg_stat_activity WHERE client_port > 0 AND pid <> pg_backend_pid()"


def test_a_clone_without_settings_finishes_what_is_in_flight_at_sigterm_and_keeps_it(
    clone, database, user
):
    text = token(user, key=PUBLIC)
    with clone.start(prefix=("env", "-i")) as api, ThreadPoolExecutor(1) as threads:
        assert f" INFO database embedded in {clone.folder}/.postgres, issuers" in api.output()
        url = "postgresql://{user}:{password}@{host}:{port}".format(
            **embedded.parameters(clone.folder / ".postgres")
        )
        with closing(psycopg2.connect(url)) as holder:
            holder.cursor().execute("LOCK TABLE tasks")
            answer = threads.submit(api.request, "POST", "", user, bearer=text, json={"title": "x"})
            wait_until(lambda: database.execute(WAITING, url=url))
            api.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in api.output())
        assert answer.result().status_code == 201
        api.process.wait(10)
        wait_until(lambda: not database.execute(CLIENTS, url=url))
        stored = database.execute("SELECT user_id, title FROM tasks", url=url)
        assert stored == [(user, "x")]


def log_since(api, before):
    """Return what the service has logged since, without uvicorn's lines for requests."""
    lines = api.output()[before:].splitlines()
    return [line for line in lines if not line.startswith("INFO: ")]


def test_each_change_and_each_refused_token_is_a_line_without_what_users_wrote(api, user):
    word = "hunter2"
    before = len(api.output())
    text = token(user, email=f"{word}@{user}", name=word)
    sent = {"title": word, "description": word}
    task = api.request("POST", "", user, bearer=text, json=sent).json()
    path = f"/{task['id']}"
    api.request("PUT", path, user, json={"title": f"{word}!"})
    api.request("PATCH", f"{path}/complete", user)
    api.request("PATCH", f"{path}/complete", user)
    api.request("DELETE", path, user)
    api.request("DELETE", path, user)
    api.request("GET", f"?status={word}", user)
    api.request("POST", "", user, json={"title": word * 100})
    for refused in (word, f"{word}.{word}.x", token(aud=word), token(seconds=-60, name=word)):
        api.request("GET", "", user, bearer=refused)
    lines = [line.split(" ", 2)[2] for line in log_since(api, before)]
    assert lines == [
        *(
            f"INFO task {change}: user {user}, task {task['id']}"
            for change in ("created", "updated", "completed", "reopened", "deleted")
        ),
        "WARNING token refused: DecodeError",
        "WARNING token refused: DecodeError",
        "WARNING token refused: InvalidAudienceError",
        "WARNING token refused: ExpiredSignatureError",
    ]
