"""The service behind a real Better Auth, from sign-up to the deletion of an account."""

import re
import time

import jwt
import pytest
from better_auth import PASSWORD, Frontend, Person, blocks, frontend, together

from tests.harness import SECRET, Postgres, Service, service

pytestmark = pytest.mark.system

CASCADE, FOLLOW_USER = blocks("sql")
AVATAR = {"image": f"data:image/png;base64,{'A' * 20_000}"}
CACHE = {"session": {"cookieCache": {"enabled": True, "strategy": "jwt"}}}
PLURAL = {"user": {"modelName": "users", "deleteUser": {"enabled": True}}}


def status(backend: Service, person: Person, token: str = "") -> int:
    return person.ask(backend, token=token).status_code


def create(backend: Service, person: Person) -> int:
    return person.ask(backend, "POST", json={"title": "Milk"}).status_code


def use_all_routes(backend: Service, person: Person, token: str) -> None:
    task = person.ask(backend, "POST", token=token, json={"title": "Milk"}).json()
    path = f"/{task['id']}"
    assert person.ask(backend, token=token).json() == [task]
    assert person.ask(backend, "GET", path, token).json() == task
    assert person.ask(backend, "PUT", path, token, json={"title": "Oats"}).json()["title"] == "Oats"
    assert person.ask(backend, "PATCH", f"{path}/complete", token).json()["completed"] is True
    assert person.ask(backend, "DELETE", path, token).status_code == 204


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES512", "RS256", "PS256"])
def test_tokens_of_each_algorithm_work_on_every_route(algorithm: str, database: Postgres) -> None:
    key = {"jwks": {"keyPairConfig": {"alg": algorithm}}}
    with together(database, jwt=key) as (home, backend):
        ada, bob = home.sign_up(), home.sign_up()
        token = ada.token()
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        use_all_routes(backend, ada, token)
        assert (status(backend, bob), status(backend, bob, token)) == (200, 403)
        rows = database.execute("SELECT id, email, name FROM users", url=backend.database)
        assert rows == [(ada.id, ada.email, "Zoë Ñandú")]


def test_other_tokens_of_better_auth_are_refused(database: Postgres) -> None:
    with together(database, options=CACHE, jwt={}) as (home, backend):
        zoe = home.sign_up()
        [mailed] = re.findall("mailed (.*)", home.log.read_text())
        for token in (zoe.cookie("session_data"), mailed):
            claims = jwt.decode(token, SECRET, ["HS256"])
            assert claims["exp"] > time.time(), "it is refused for something else than its age"
            assert status(backend, zoe, token) == 401
        session = zoe.signed_up.json()["token"]
        assert status(backend, zoe, session) == 401
        assert "authClient.token()" in zoe.ask(backend, token=session).text


def test_a_cookie_cache_with_a_genuine_signature_is_refused(database: Postgres) -> None:
    with together(database, options=CACHE, jwt={"sessionCookieCache": True}) as (home, backend):
        zoe = home.sign_up()
        cached, token = zoe.cookie("session_data"), zoe.token()
        # It is genuine in all but its audience: the same key, issuer and `sub`.
        claims = jwt.decode(cached, options={"verify_signature": False})
        assert (claims["iss"], claims["sub"]) == (home.url, zoe.id)
        assert jwt.get_unverified_header(cached)["kid"] == jwt.get_unverified_header(token)["kid"]
        assert (status(backend, zoe, cached), status(backend, zoe, token)) == (401, 200)


def test_after_a_rotation_old_tokens_and_new_ones_are_good(database: Postgres) -> None:
    with together(database) as (home, backend):
        zoe = home.sign_up()
        old = zoe.token()
        database.execute('UPDATE jwks SET "expiresAt" = now()', url=backend.database)
        new = zoe.token()
        assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
        assert status(backend, zoe, new) == status(backend, zoe, old) == 200


def test_tokens_of_each_address_of_a_frontend_count_if_it_is_listed(database: Postgres) -> None:
    addresses = {"baseURL": {"allowedHosts": ["localhost:*", "127.0.0.1:*"]}}
    url = database.create_database()
    with frontend(url, options=addresses) as home:
        second = f"http://127.0.0.1:{home.port}"
        zoe = home.sign_up(second)
        claims = jwt.decode(zoe.token(), options={"verify_signature": False})
        assert (claims["iss"], claims["aud"]) == (second, second)
        for trusted, expected in ((second, 200), ("https://app.example.com", 401)):
            settings = {"BETTER_AUTH_URL": home.url, "BETTER_AUTH_TRUSTED_ORIGINS": trusted}
            with service(NEON_DATABASE_URL=url, **settings) as backend:
                assert status(backend, zoe) == expected


def test_a_picture_stays_out_of_documented_tokens(both: tuple[Frontend, Service]) -> None:
    home, backend = both
    zoe = home.sign_up()
    zoe.post("/update-user", AVATAR)
    assert status(backend, zoe) == 200


def test_a_picture_in_a_token_is_too_long_and_said_to_be(database: Postgres) -> None:
    with together(database, jwt={}) as (home, backend):
        zoe = home.sign_up()
        zoe.post("/update-user", AVATAR)
        answer = zoe.ask(backend)
        detail = "The token is too long: at most 16384 characters."
        assert (answer.status_code, answer.json()) == (401, {"detail": detail})


def test_an_account_in_plural_tables_is_deleted_with_its_tasks(database: Postgres) -> None:
    with together(database, options=PLURAL) as (home, backend):
        url = backend.database
        zoe, ada, bob = home.sign_up(), home.sign_up(), home.sign_up()
        assert [create(backend, person) for person in (zoe, ada, bob)] == [201] * 3
        zoe.post("/delete-user", {"password": PASSWORD})
        tasks = "SELECT user_id FROM tasks ORDER BY id"
        assert database.execute(tasks, url=url) == [(ada.id,), (bob.id,)]

        # Tables of others may lack the CASCADE.
        database.execute(CASCADE.replace(" ON DELETE CASCADE", ""), url=url)
        sent = {"email": ada.email, "password": PASSWORD, "name": "Ada"}
        paths = ("delete-user", "sign-in/email", "sign-up/email")
        answers = [ada.client.post(f"/api/auth/{path}", json=sent) for path in paths]
        assert [answer.status_code for answer in answers] == [500, 401, 422]
        database.execute(CASCADE, url=url)
        bob.post("/delete-user", {"password": PASSWORD})
        assert database.execute(tasks, url=url) == [(ada.id,)]


def test_an_account_in_a_table_of_its_own_takes_its_tasks_with_the_documented_key(
    database: Postgres,
) -> None:
    with together(database, options={"user": {"deleteUser": {"enabled": True}}}) as (home, backend):
        url = backend.database
        ada, bob, late = home.sign_up(), home.sign_up(), home.sign_up()
        assert [create(backend, person) for person in (ada, bob)] == [201, 201]
        ada.post("/delete-user", {"password": PASSWORD})
        assert database.execute("SELECT count(*) FROM tasks", url=url) == [(2,)], "they stay"
        database.execute("DELETE FROM users WHERE id = %s", ada.id, url=url)

        database.execute(FOLLOW_USER, url=url)
        outlives = late.token()
        for person in (bob, late):
            person.post("/delete-user", {"password": PASSWORD})
        assert database.execute("SELECT count(*) FROM tasks", url=url) == [(0,)]
        assert database.execute("SELECT count(*) FROM users", url=url) == [(0,)]
        answer = late.ask(backend, "POST", token=outlives, json={"title": "Milk"})
        assert answer.status_code == 409
        assert answer.json() == {"detail": "A rule of the tables refuses this."}
