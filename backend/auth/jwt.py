"""Tokens: which are genuine, and whose they are. Knows no HTTP."""

import argparse
import asyncio
import logging
import os
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt

from backend import refuse_to_start

# The algorithms Better Auth's jwt plugin can sign with (its option jwks.keyPairConfig.alg).
PUBLISHED_ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")
LEEWAY = 30  # seconds that the clocks of frontend and backend may differ
MAX_TOKEN = 8192  # characters; PyJWT looks at each one, genuine or not
MAX_REMEMBERED = 2048  # tokens
KEYS_LIFETIME = 300  # seconds
KEYS_RETRY = 10  # seconds
KEYS_TIMEOUT = 3  # seconds

logger = logging.getLogger(__name__)


class KeysUnavailableError(Exception):
    """The published keys cannot be read, so nobody can say whether a token is genuine."""


class UnknownKeyError(jwt.InvalidTokenError):
    """No published key has the token's `kid`."""


class Identity(NamedTuple):
    """Who a genuine token speaks for."""

    id: str
    email: str | None = None
    name: str | None = None


def origin(variable: str, address: str) -> str:
    """Return the origin of an http(s) address as browsers write it (RFC 6454, 6.2); do not start over another text."""
    try:
        url = urlsplit(address.strip())
        port = {80: "http", 443: "https"}.get(url.port or 0) != url.scheme and url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in ("http", "https") or not url.hostname or "*" in url.hostname:
        refuse_to_start(f"{variable} must be an address such as https://app.example.com.")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}" + (f":{port}" if port else "")


SECRET = os.environ.get("BETTER_AUTH_SECRET", "")
if len(SECRET.encode()) < 32:
    refuse_to_start("BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).")
URL = os.environ.get("BETTER_AUTH_URL", "").strip()
ORIGIN = origin("BETTER_AUTH_URL", URL)
ISSUER = os.environ.get("BETTER_AUTH_ISSUER") or ORIGIN
AUDIENCE = os.environ.get("BETTER_AUTH_AUDIENCE") or ORIGIN
KEYS_URL = os.environ.get("BETTER_AUTH_JWKS_URL") or f"{ORIGIN}{urlsplit(URL).path.rstrip('/') or '/api/auth'}/jwks"
origin("BETTER_AUTH_JWKS_URL", KEYS_URL)


class PublishedKeys:
    """The keys at KEYS_URL, by `kid`: read in a thread, and kept for as long as they cannot be read again."""

    def __init__(self) -> None:
        # The client fetches and parses only: its own cache waits for the endpoint, and forgets when it is down.
        self._client = jwt.PyJWKClient(KEYS_URL, cache_jwk_set=False, timeout=KEYS_TIMEOUT)
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._reading: asyncio.Task[bool] | None = None
        self._tried = self._read = float("-inf")

    def fresh_for(self) -> float:
        """Return the seconds, perhaps negative, until the keys are due to be read again."""
        return self._read + KEYS_LIFETIME - time.monotonic()

    async def get(self, kid: str | None) -> jwt.PyJWK:
        """Return the key; raise InvalidTokenError if there is none such, KeysUnavailableError if nobody can say."""
        due = kid not in self._keys or self.fresh_for() < 0
        if due and time.monotonic() > self._tried + KEYS_RETRY and (not self._reading or self._reading.done()):
            self._tried = time.monotonic()
            self._reading = asyncio.create_task(self._fetch())
        if kid not in self._keys and self._reading:
            try:
                readable = await asyncio.wait_for(asyncio.shield(self._reading), KEYS_TIMEOUT)
            except TimeoutError:
                readable = False
            if not readable:
                raise KeysUnavailableError
        if kid not in self._keys:
            raise UnknownKeyError
        return self._keys[kid]

    async def _fetch(self) -> bool:
        try:
            keys = await asyncio.to_thread(self._client.get_signing_keys)
        # What stands at the address is foreign text: PyJWKClient lets through what its parts raise.
        except (jwt.PyJWTError, OSError, ValueError, TypeError, RecursionError) as error:
            logger.warning("keys of %s cannot be read: %s", ORIGIN, type(error).__name__)
            return False
        self._keys, self._read = {key.key_id: key for key in keys}, time.monotonic()
        _remembered.clear()
        return True


_keys = PublishedKeys()
_remembered: dict[str, tuple[Identity, float]] = {}  # and the Unix time until which the token needs no new look


async def verify(token: str) -> Identity:
    """Return whose token it is; raise jwt.InvalidTokenError if it is not genuine, or KeysUnavailableError."""
    identity, until = _remembered.get(token, (None, 0.0))
    if identity and time.time() < until:
        return identity
    if len(token) > MAX_TOKEN:
        raise jwt.DecodeError
    unverified = jwt.decode_complete(token, options={"verify_signature": False})
    published = unverified["header"].get("alg") in PUBLISHED_ALGORITHMS
    key = await _keys.get(unverified["header"].get("kid")) if published else SECRET
    claims = jwt.decode(
        token,
        key,
        # Never the token's own word: the key says what it may sign.
        algorithms=[key.algorithm_name] if isinstance(key, jwt.PyJWK) else ["HS256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=LEEWAY,
        options={
            "require": ["exp", "sub"],
            # Better Auth's jwt plugin always sets these two; a frontend that signs for itself seldom does.
            "verify_iss": published or "iss" in unverified["payload"],
            "verify_aud": published or "aud" in unverified["payload"],
        },
    )
    if not (1 <= len(claims["sub"]) <= 255 and claims["sub"].isprintable()):
        raise jwt.InvalidSubjectError
    identity = Identity(claims["sub"], _text(claims.get("email")), _text(claims.get("name")))
    if len(_remembered) >= MAX_REMEMBERED:
        _remembered.clear()
    until = int(claims["exp"]) + LEEWAY
    _remembered[token] = identity, min(until, time.time() + _keys.fresh_for()) if published else until
    return identity


def _text(claim: object) -> str | None:
    """Return a claim that is text, without what PostgreSQL cannot store: NUL and lone surrogates."""
    return claim.encode(errors="ignore").decode().replace("\0", "") if isinstance(claim, str) else None


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m backend.auth.jwt", description="Print a token for a user.")
    parser.add_argument("user_id")
    parser.add_argument("--seconds", type=int, default=3600, help="how long it is valid (default: %(default)s)")
    arguments = parser.parse_args()
    print(jwt.encode({"sub": arguments.user_id, "exp": int(time.time()) + arguments.seconds}, SECRET, "HS256"))


if __name__ == "__main__":
    _main()
