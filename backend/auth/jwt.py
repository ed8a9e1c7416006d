"""Tokens: which are genuine, and whose they are. Knows no HTTP."""

import argparse
import asyncio
import logging
import math
import os
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt
from pydantic import AnyHttpUrl

from backend import refuse_to_start

logger = logging.getLogger(__name__)


def origin(variable: str, address: str) -> str:
    """Return an address's origin as browsers write it (RFC 6454, section 6.2); without one, do not start."""
    try:
        return "/".join(str(AnyHttpUrl(address.strip().replace("*", " "))).split("/")[:3])
    except ValueError:
        refuse_to_start(f"{variable} must be an address such as https://app.example.com.")


SECRET = os.environ.get("BETTER_AUTH_SECRET", "")
if len(SECRET.encode()) < 32:
    refuse_to_start("BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).")
URL = os.environ.get("BETTER_AUTH_URL", "").strip()
ORIGIN = origin("BETTER_AUTH_URL", URL)
ISSUER = os.environ.get("BETTER_AUTH_ISSUER") or ORIGIN
AUDIENCE = os.environ.get("BETTER_AUTH_AUDIENCE") or ORIGIN
KEYS_URL = os.environ.get("BETTER_AUTH_JWKS_URL") or f"{ORIGIN}{urlsplit(URL).path.rstrip('/') or '/api/auth'}/jwks"
origin("BETTER_AUTH_JWKS_URL", KEYS_URL)
PUBLISHED = ("EdDSA", "ES256", "ES512", "RS256", "PS256")  # what Better Auth's jwt plugin can sign with
LEEWAY = 30  # seconds


class KeysUnavailableError(Exception):
    """The published keys cannot be read, so nobody can say whether a token is genuine."""


class Identity(NamedTuple):
    """Who a genuine token speaks for."""

    id: str
    email: str | None
    name: str | None


class PublishedKeys:
    """The keys at KEYS_URL by their `kid`; they stay while the address cannot be read."""

    def __init__(self) -> None:
        # To fetch and parse only: its cache holds everybody up while the address hangs, and ends when it is down.
        self.client = jwt.PyJWKClient(KEYS_URL, cache_jwk_set=False, timeout=3)
        self.keys: dict[str | None, jwt.PyJWK] = {}
        self.stale = 0.0  # the Unix time after which they are due to be read again
        self.retry = 0.0  # the monotonic time before which they are not
        self.reading: asyncio.Task[bool]

    async def get(self, kid: str | None) -> jwt.PyJWK:
        """Return a key; raise InvalidTokenError if there is none such, or KeysUnavailableError."""
        if (kid not in self.keys or time.time() > self.stale) and time.monotonic() > self.retry:
            self.reading = asyncio.create_task(self.read(time.monotonic() + 10))
            self.retry = math.inf
        if kid not in self.keys:
            await asyncio.wait([self.reading], timeout=3)
            if not (self.reading.done() and self.reading.result()):
                raise KeysUnavailableError
        if kid not in self.keys:
            raise jwt.InvalidSignatureError
        return self.keys[kid]

    async def read(self, retry: float) -> bool:
        """Read the keys in a thread; return whether that was possible."""
        try:
            keys = await asyncio.to_thread(self.client.get_signing_keys)
            self.keys, self.stale = {key.key_id: key for key in keys}, time.time() + 300
            _remembered.clear()
        # Any text may stand at the address, and the client lets through what its parser raises.
        except (jwt.PyJWTError, OSError, ValueError, TypeError, RecursionError) as error:
            logger.warning("signing keys unavailable: %s", type(error).__name__)
            return False
        finally:
            self.retry = retry
        return True


_published = PublishedKeys()
_remembered: dict[str, tuple[Identity, float]] = {}  # genuine tokens, and until what Unix time they need no new look


async def verify(token: str) -> Identity:
    """Return whose token it is; raise jwt.InvalidTokenError if it is not genuine, or KeysUnavailableError."""
    identity, until = _remembered.get(token, (None, 0.0))
    if identity and time.time() < until:
        return identity
    if len(token) > 8192:  # PyJWT looks at every byte, genuine or not
        raise jwt.DecodeError
    unverified = jwt.decode_complete(token, options={"verify_signature": False})
    published = unverified["header"].get("alg") in PUBLISHED
    key = await _published.get(unverified["header"].get("kid")) if published else SECRET
    claims = jwt.decode(
        token,
        key,
        algorithms=[key.algorithm_name] if isinstance(key, jwt.PyJWK) else ["HS256"],  # never what the token says
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=LEEWAY,
        options={
            "require": ["exp", "sub"],
            # The jwt plugin always names these two; a frontend that signs for itself seldom does.
            "verify_iss": published or "iss" in unverified["payload"],
            "verify_aud": published or "aud" in unverified["payload"],
        },
    )
    if not (1 <= len(claims["sub"]) <= 255 and claims["sub"].isprintable()):
        raise jwt.InvalidTokenError
    # PostgreSQL's text holds neither lone surrogates nor NUL.
    email, name = (str(claims.get(claim) or "").encode(errors="ignore").decode() for claim in ("email", "name"))
    identity = Identity(claims["sub"], email.replace("\0", "") or None, name.replace("\0", "") or None)
    if len(_remembered) >= 2048:
        _remembered.clear()
    _remembered[token] = identity, min(int(claims["exp"]) + LEEWAY, _published.stale if published else math.inf)
    return identity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m backend.auth.jwt", description="Print a token for a user.")
    parser.add_argument("user_id")
    parser.add_argument("--seconds", type=int, default=3600, help="how long it is valid (default: %(default)s)")
    options = parser.parse_args()
    print(jwt.encode({"sub": options.user_id, "exp": int(time.time()) + options.seconds}, SECRET))
