"""The service behind a real Better Auth, from sign-up to the row in the table.

npm ci --prefix tests/system/frontend
.venv/bin/pytest -m system tests/system/test_better_auth.py
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import jwt
import pytest
from better_auth import PASSWORD, Frontend, Person, frontend, until
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.harness import SECRET, Postgres, Service, free_port, service, token

pytestmark = pytest.mark.system

RETRY = 10  # seconds, at most, until the service knows a new key


@contextmanager
def impatient(**environment: str) -> Iterator[Service]:
    """Start the service with keys that grow old a hundred times as fast."""
    with Service(program=("-m", "tests.system.impatient"), **environment) as running:
        yield running.wait_until_up()


@contextmanager
def together(
    database: Postgres,
    start: Callable[..., AbstractContextManager[Service]] = service,
    home: AbstractContextManager[Frontend] | None = None,
) -> Iterator[tuple[Frontend, Service]]:
    """Start a frontend, and the service with its address."""
    with (
        home or frontend() as running,
        start(NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=running.url) as backend,
    ):
        yield running, backend


def ask(
    backend: Service, person: Person, token: str, method: str = "GET", path: str = "", **sent: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return backend.client.request(method, person.tasks + path, headers=headers, **sent)


def status(backend: Service, person: Person, token: str) -> int:
    return ask(backend, person, token).status_code


def refuses(backend: Service, person: Person, token: str) -> bool:
    """Tell whether a request is refused as one without a genuine token is, on each route."""
    task = {"title": "Milk"}
    answers = [
        ask(backend, person, token),
        ask(backend, person, token, "POST", json=task),
        ask(backend, person, token, "GET", "/1"),
        ask(backend, person, token, "PUT", "/1", json=task),
        ask(backend, person, token, "PATCH", "/1/complete"),
        ask(backend, person, token, "DELETE", "/1"),
    ]
    return all(
        (answer.status_code, answer.headers.get("WWW-Authenticate")) == (401, "Bearer")
        and list(answer.json()) == ["detail"]
        and token not in answer.text
        for answer in answers
    )


def is_unavailable(answer: httpx.Response) -> bool:
    """Tell whether an answer says: not now, ask again."""
    detail = answer.json()["detail"]
    return (
        answer.status_code == 503
        and answer.headers["Retry-After"].isdigit()
        and isinstance(detail, str)
    )


def use_all_routes(backend: Service, person: Person, token: str) -> None:
    """Create, list, read, change, complete and delete a task."""
    created = ask(backend, person, token, "POST", json={"title": "Milk", "description": "of oats"})
    assert created.status_code == 201
    task = created.json()
    assert {
        "title": "Milk",
        "description": "of oats",
        "completed": False,
        "user_id": person.id,
    }.items() <= task.items()
    path = f"/{task['id']}"
    assert ask(backend, person, token).json() == [task]
    assert ask(backend, person, token, "GET", path).json() == task
    changed = ask(backend, person, token, "PUT", path, json={"title": "Bread"}).json()
    assert changed == task | {"title": "Bread", "updated_at": changed["updated_at"]}
    completed = ask(backend, person, token, "PATCH", f"{path}/complete").json()
    assert completed == changed | {"completed": True, "updated_at": completed["updated_at"]}
    assert ask(backend, person, token, "DELETE", path).status_code == 204
    assert ask(backend, person, token).json() == []


def use_as_two(backend: Service, running: Frontend, kind: str) -> None:
    """Use all routes as two new people, neither of whom can reach the other's tasks."""
    ada, bob = running.sign_up("Ada"), running.sign_up("Bob")
    adas, bobs = getattr(ada, kind)(), getattr(bob, kind)()
    use_all_routes(backend, ada, adas)
    use_all_routes(backend, bob, bobs)
    task = ask(backend, ada, adas, "POST", json={"title": "Ada's"}).json()
    assert status(backend, ada, bobs) == status(backend, bob, adas) == 403
    assert ask(backend, bob, bobs, "GET", f"/{task['id']}").status_code == 404
    assert ask(backend, bob, bobs, "DELETE", f"/{task['id']}").status_code == 404
    assert ask(backend, ada, adas).json() == [task]
    assert ask(backend, bob, bobs).json() == []


@pytest.mark.parametrize("algorithm", ["", "EdDSA", "ES256", "ES512", "RS256", "PS256"])
def test_tokens_of_the_jwt_plugin_work_on_every_route(algorithm: str, database: Postgres) -> None:
    with together(database, home=frontend(JWT_ALGORITHM=algorithm)) as (home, backend):
        use_as_two(backend, home, "published")
        signed = jwt.get_unverified_header(home.people[0].published())
        assert signed["alg"] == (algorithm or "EdDSA")


def test_tokens_that_the_frontend_signs_with_the_secret_work_on_every_route(
    home: Frontend, backend: Service
) -> None:
    use_as_two(backend, home, "shared")


def test_the_token_that_comes_with_the_session_works(home: Frontend, backend: Service) -> None:
    zoe = home.sign_up()
    use_all_routes(backend, zoe, zoe.get("/get-session").headers["set-auth-jwt"])


@pytest.mark.parametrize("path", ["/custom/auth", "/auth/"])
def test_a_path_in_better_auth_url_is_where_better_auth_is(path: str, database: Postgres) -> None:
    environment = {"NEON_DATABASE_URL": database.create_database()}
    with (
        frontend(path.rstrip("/")) as home,
        service(BETTER_AUTH_URL=home.origin + path, **environment) as backend,
    ):
        use_as_two(backend, home, "published")
        assert home.fetches == 1


def test_a_custom_issuer_and_audience_work_only_with_both_variables(database: Postgres) -> None:
    issuer, audience = "https://issuer.example", "todo"
    with frontend(JWT_ISSUER=issuer, JWT_AUDIENCE=audience) as home:
        both = {"BETTER_AUTH_ISSUER": issuer, "BETTER_AUTH_AUDIENCE": audience}
        environment = {"NEON_DATABASE_URL": database.create_database(), "BETTER_AUTH_URL": home.url}
        with service(**environment, **both) as backend:
            use_as_two(backend, home, "published")
        zoe = home.people[0]
        for variables in (
            {},
            both | {"BETTER_AUTH_ISSUER": ""},
            both | {"BETTER_AUTH_AUDIENCE": ""},
        ):
            with service(**environment, **variables) as backend:
                assert refuses(backend, zoe, zoe.published()), variables
                assert status(backend, zoe, zoe.shared()) == 200


def test_the_users_row_is_who_signed_up_and_stays_as_it_is(
    home: Frontend, database: Postgres
) -> None:
    url = database.create_database()
    with service(NEON_DATABASE_URL=url, BETTER_AUTH_URL=home.url) as backend:
        zoe = home.sign_up("Zoë Ñandú 🦤", "zoe@example.com")
        bob = home.sign_up("Bob", "bob@example.com")
        ask(backend, zoe, zoe.published(), "POST", json={"title": "Milk"})
        ask(backend, bob, bob.shared(), "POST", json={"title": "Bread"})
        statement = "SELECT id, email, name FROM users ORDER BY email"
        rows = database.execute(statement, url=url)
        assert rows == [
            (bob.id, "bob@example.com", "Bob"),
            (zoe.id, "zoe@example.com", "Zoë Ñandú 🦤"),
        ]

        zoe.post("/update-user", name="Zoë")
        zoe.get("/get-session", disableCookieCache="true")
        renamed = zoe.published()
        assert jwt.decode(renamed, options={"verify_signature": False})["name"] == "Zoë"
        created = ask(backend, zoe, renamed, "POST", json={"title": "Butter"})
        assert created.status_code == 201
        assert database.execute(statement, url=url) == rows


@pytest.fixture(scope="module")
def other_tokens(home: Frontend) -> dict[str, str]:
    """Return what Better Auth makes that is no access token, all for one person."""
    zoe = home.sign_up(email="zoe@other.example")
    tokens = {
        "session token": zoe.signed_up.json()["token"],
        "signed session token": zoe.signed_up.headers["set-auth-token"],
        "session cookie": zoe.cookie("session_token"),
        "cookie cache": zoe.cookie("session_data"),
        "one-time token": zoe.get("/one-time-token/generate").json()["token"],
        "e-mail verification": home.mailed("verify e-mail"),
    }
    zoe.get("/verify-email", token=tokens["e-mail verification"])
    zoe.get("/get-session", disableCookieCache="true")
    zoe.post("/change-email", newEmail="new@other.example")
    tokens["e-mail change"] = home.mailed("change e-mail")
    zoe.get("/verify-email", token=tokens["e-mail change"])
    tokens["verification of the new e-mail"] = home.mailed("verify e-mail")
    zoe.post("/request-password-reset", email=zoe.email)
    tokens["password reset"] = home.mailed("reset password")
    zoe.post("/delete-user", password=PASSWORD)
    tokens["account deletion"] = home.mailed("delete account")
    return tokens


SIGNED_WITH_THE_SECRET = [
    "cookie cache",
    "e-mail verification",
    "e-mail change",
    "verification of the new e-mail",
]
RANDOM = [
    "session token",
    "signed session token",
    "session cookie",
    "one-time token",
    "password reset",
    "account deletion",
]


@pytest.mark.parametrize("kind", SIGNED_WITH_THE_SECRET + RANDOM)
def test_other_tokens_of_better_auth_are_refused(
    kind: str, other_tokens: dict[str, str], home: Frontend, backend: Service
) -> None:
    zoe = next(person for person in home.people if person.email == "zoe@other.example")
    assert status(backend, zoe, zoe.shared()) == 200
    assert len(set(other_tokens.values())) == len(other_tokens)
    assert refuses(backend, zoe, other_tokens[kind])
    if kind in SIGNED_WITH_THE_SECRET:
        claims = jwt.decode(other_tokens[kind], SECRET, ["HS256"])
        assert claims["exp"] > time.time(), "it was refused for its age"


@pytest.mark.parametrize(
    ("strategy", "keys"), [("compact", ""), ("jwt", ""), ("jwe", ""), ("jwt", "the published ones")]
)
def test_the_cookie_cache_is_refused_in_every_strategy(
    strategy: str, keys: str, database: Postgres
) -> None:
    with together(database, home=frontend(COOKIE_CACHE=strategy, COOKIE_CACHE_KEYS=keys)) as (
        home,
        backend,
    ):
        zoe = home.sign_up()
        assert status(backend, zoe, zoe.published()) == 200
        cache = zoe.cookie("session_data")
        assert refuses(backend, zoe, cache)
        if keys:
            # Genuine in all but its audience: same key, same issuer, and the person's id as `sub`.
            published, cached = (
                jwt.get_unverified_header(token)["kid"] for token in (zoe.published(), cache)
            )
            claims = jwt.decode(cache, options={"verify_signature": False})
            assert (published, claims["iss"], claims["sub"]) == (cached, home.origin, zoe.id)


def test_a_token_of_one_better_auth_is_refused_by_the_backend_of_another(backend: Service) -> None:
    with frontend(BETTER_AUTH_SECRET="another secret, of more than 32 bytes too") as elsewhere:
        mallory = elsewhere.sign_up()
        assert refuses(backend, mallory, mallory.published())
        assert refuses(backend, mallory, mallory.shared())


def test_a_token_for_another_frontend_is_refused_though_its_key_is_known(
    home: Frontend, database: Postgres
) -> None:
    zoe = home.sign_up()
    elsewhere = {
        "BETTER_AUTH_URL": "http://localhost:3000",
        "BETTER_AUTH_JWKS_URL": f"{home.url}/api/auth/jwks",
        "NEON_DATABASE_URL": database.create_database(),
    }
    before = home.fetches
    with service(**elsewhere) as backend:
        assert refuses(backend, zoe, zoe.published())
        assert home.fetches == before + 1


def test_after_a_rotation_new_tokens_work_within_ten_seconds_and_old_ones_go_on(
    database: Postgres,
) -> None:
    with together(database) as (home, backend):
        ada, bob = home.sign_up(), home.sign_up()
        old, old_of_bob = ada.published(), bob.published()
        assert status(backend, ada, old) == 200
        home.rotate_keys()
        new = ada.published()
        assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
        seen = set()

        def works() -> bool:
            seen.add(answer := status(backend, ada, new))
            return answer == 200

        until(works, RETRY + 1)
        assert seen <= {200, 401}
        assert home.fetches == 2
        assert status(backend, ada, old) == status(backend, bob, old_of_bob) == 200


def test_a_withdrawn_key_is_refused_once_the_keys_are_read_again(database: Postgres) -> None:
    with together(database, impatient) as (home, backend):
        zoe = home.sign_up()
        old = zoe.published()
        assert status(backend, zoe, old) == 200
        home.withdraw_keys()
        until(lambda: status(backend, zoe, old) == 401, 5)
        assert status(backend, zoe, zoe.published()) in (200, 401)
        until(lambda: status(backend, zoe, zoe.published()) == 200, 5)


def test_nobody_is_logged_out_when_better_auth_goes_away(database: Postgres) -> None:
    with together(database, impatient) as (home, backend):
        ada, bob = home.sign_up(), home.sign_up()
        adas, bobs, later = ada.published(), bob.published(), bob.shared()
        assert status(backend, ada, adas) == 200
        for mode in ("down", "html"):
            home.keys(mode)
            before = home.fetches

            def tried_in_vain(before: int = before) -> bool:
                assert status(backend, ada, adas) == 200
                return home.fetches > before + 1

            until(tried_in_vain, 10)
        home.stop()
        deadline = time.monotonic() + 1  # ten more attempts
        while time.monotonic() < deadline:
            assert status(backend, ada, adas) == 200
            assert status(backend, bob, bobs) == 200, "a token that the service had never seen"
            assert status(backend, bob, later) == 200


@pytest.mark.parametrize("mode", ["down", "html", "hanging"])
def test_tokens_that_cannot_be_checked_are_503_until_the_keys_can_be_read(
    mode: str, database: Postgres
) -> None:
    with together(database, impatient) as (home, backend):
        zoe = home.sign_up()
        published = zoe.published()
        home.keys(mode)
        started = time.monotonic()
        assert is_unavailable(ask(backend, zoe, published))
        assert time.monotonic() - started < 5
        assert status(backend, zoe, zoe.shared()) == 200
        assert status(backend, zoe, "no token at all") == 401
        home.keys("normal")
        until(lambda: status(backend, zoe, published) == 200, 10)


def test_without_a_key_endpoint_the_answer_is_503(home: Frontend, database: Postgres) -> None:
    zoe = home.sign_up()
    nowhere = {"BETTER_AUTH_JWKS_URL": f"http://localhost:{free_port()}/jwks"}
    with service(
        NEON_DATABASE_URL=database.create_database(), BETTER_AUTH_URL=home.url, **nowhere
    ) as backend:
        assert is_unavailable(ask(backend, zoe, zoe.published()))
        assert is_unavailable(ask(backend, zoe, zoe.published())), (
            "and again, without another attempt"
        )
        use_all_routes(backend, zoe, zoe.shared())


def test_a_hanging_key_endpoint_holds_up_nobody_whose_key_is_known(database: Postgres) -> None:
    with together(database, impatient) as (home, backend), ThreadPoolExecutor(20) as pool:
        people = [home.sign_up() for _ in range(8)]
        known = [person.published() for person in people]
        assert status(backend, people[0], known[0]) == 200
        home.rotate_keys()
        new = people[0].published()
        home.keys("hanging")
        before = home.fetches
        until(lambda: status(backend, people[0], known[0]) == 200 and home.fetches > before, 5)

        waiting = [pool.submit(ask, backend, people[0], new) for _ in range(20)]
        served = []
        while not any(answer.done() for answer in waiting):
            for person, theirs in zip(people[1:], known[1:], strict=True):
                served += [ask(backend, person, theirs), ask(backend, person, person.shared())]
        assert len(served) >= 14
        assert {answer.status_code for answer in served} == {200}
        assert max(answer.elapsed.total_seconds() for answer in served) < 1
        assert all(is_unavailable(answer.result()) for answer in waiting)
        assert max(answer.result().elapsed.total_seconds() for answer in waiting) < 5


def test_two_hundred_forged_keys_cost_two_fetches_at_most(database: Postgres) -> None:
    with together(database) as (home, backend), ThreadPoolExecutor(20) as pool:
        zoe = home.sign_up()
        genuine = zoe.published()
        key = Ed25519PrivateKey.generate()

        def forge(kid: str | None) -> int:
            claims = {"iss": home.origin, "aud": home.origin, "email": zoe.email}
            return status(
                backend, zoe, token(zoe.id, key=key, algorithm="EdDSA", kid=kid, **claims)
            )

        assert set(pool.map(forge, [f"forged-{number}" for number in range(200)])) == {401}
        assert home.fetches in (1, 2)
        assert status(backend, zoe, genuine) == 200
        assert {forge(jwt.get_unverified_header(genuine)["kid"]), forge(None)} == {401}
        assert home.fetches in (1, 2)
