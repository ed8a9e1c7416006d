"""Tokens: which are genuine, and whose they are."""

import argparse
import asyncio
import logging
import time
from functools import lru_cache
from typing import Any, NamedTuple

import httpx
import jwt

from backend import UnavailableError, settings

PLUGIN_ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")  # of Better Auth's jwt plugin
MAX_TOKEN_LENGTH = 16384  # Node's servers take no longer headers either.
MAX_REMEMBERED_TOKENS = 2048
# Seconds.
LEEWAY = 30  # Clocks may differ by so much.
REMEMBERED_FOR = 60  # A genuine token is not checked again for so long.
# The published keys are read at most so often, whether the last reading succeeded or not:
KEYS_FRESH = 300  # for a token whose key is known
KEYS_RETRY = 10  # for a token whose key is unknown
KEYS_TIMEOUT = 2

# Who may have made a token, and for whom.
ISSUERS = settings.better_auth_issuer or settings.origins
AUDIENCES = settings.better_auth_audience or settings.origins
KEYS_URL = settings.better_auth_jwks_url or f"{settings.origins[0]}/api/auth/jwks"

logger = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Whose a token is."""

    id: str
    email: str | None
    name: str | None


# Genuine tokens, and the time on the monotonic clock until which each is believed.
remembered: dict[str, tuple[Identity, float]] = {}


async def verify(token: str) -> Identity:
    """Return whose token it is.

    Raise PyJWTError if it is not genuine, and UnavailableError if nobody can say.
    """
    if token in remembered:
        identity, believed_until = remembered[token]
        if time.monotonic() < believed_until:
            return identity
    claims = await decode(token)
    user_id = claims["sub"]  # PyJWT has made sure that it is text.
    if not 1 <= len(user_id) <= 255 or not user_id.isprintable():
        raise jwt.InvalidTokenError
    identity = Identity(user_id, storable(claims.get("email")), storable(claims.get("name")))
    if len(remembered) >= MAX_REMEMBERED_TOKENS:
        remembered.clear()
    seconds = min(REMEMBERED_FOR, int(claims["exp"]) + LEEWAY - time.time())
    remembered[token] = identity, time.monotonic() + seconds
    return identity


async def decode(token: str) -> dict[str, Any]:
    """Return the claims of a genuine token; raise what `verify` raises."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise jwt.DecodeError
    header = read_header(token.partition(".")[0])
    if header.get("alg") in PLUGIN_ALGORITHMS:
        key = await published_keys.find(header.get("kid"))
        return jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],  # the key's own, never the one that the token names
            options={"require": ["exp", "sub", "iss", "aud"]},
            issuer=ISSUERS,
            audience=AUDIENCES,
            leeway=LEEWAY,
        )
    claims = jwt.decode(
        token,
        settings.better_auth_secret,
        algorithms=["HS256"],
        options={"require": ["exp", "sub"], "verify_iss": False, "verify_aud": False},
        leeway=LEEWAY,
    )
    # A token that is signed with the secret may leave out who made it and for whom.
    if "iss" in claims and claims["iss"] not in ISSUERS:
        raise jwt.InvalidIssuerError
    if "aud" in claims:
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if not any(name in AUDIENCES for name in audiences):
            raise jwt.InvalidAudienceError
    return claims


@lru_cache(maxsize=64)
def read_header(segment: str) -> dict[str, Any]:
    """Return what a token's first part says, unverified.

    It is remembered, since all tokens of one key have the same: with HS256 that saves 17 of the 54
    microseconds of a new token. PyJWT wants three parts, so two empty ones follow.
    """
    return jwt.get_unverified_header(f"{segment}..")


def storable(claim: Any) -> str | None:
    """Return a claim as text that `users` takes: cut off, without NUL and lone surrogates."""
    text = str(claim or "").replace("\0", "")[:255]
    return text.encode(errors="ignore").decode() or None


class PublishedKeys:
    """The keys that the frontend publishes (RFC 7517), read only when a request needs them.

    If a reading fails, the keys that were read last serve on: an outage signs nobody out.
    """

    def __init__(self) -> None:
        self.client = httpx.AsyncClient(headers={"User-Agent": "todo-backend"})
        self.keys: dict[str | None, jwt.PyJWK] = {}  # by their ids
        # The last attempt, which the first `find` makes. To await it again gives its result again.
        self.reading: asyncio.Task[bool]
        self.tried_at = float("-inf")  # when it began, on the monotonic clock

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """Return the key with this id; only if it is unknown, wait for a reading.

        Raise InvalidKeyError if there is none, and UnavailableError if nobody can say.
        """
        good_for = KEYS_FRESH if kid in self.keys else KEYS_RETRY
        if time.monotonic() > self.tried_at + good_for:
            self.tried_at = time.monotonic()
            self.reading = asyncio.create_task(self.read())
        if kid in self.keys:
            return self.keys[kid]  # It does not wait for the reading.
        # A request that is cancelled stops waiting; the shield keeps the reading for the others.
        if not await asyncio.shield(self.reading):
            raise UnavailableError
        if kid not in self.keys:
            raise jwt.InvalidKeyError
        return self.keys[kid]

    async def read(self) -> bool:
        """Read the keys, and return whether that went well; if not, log why."""
        try:
            async with asyncio.timeout(KEYS_TIMEOUT):
                response = await self.client.get(KEYS_URL)
            key_set = jwt.PyJWKSet.from_dict(response.raise_for_status().json())
            self.keys = {key.key_id: key for key in key_set.keys}
        except Exception as error:  # noqa: BLE001 - anything may stand at that address
            logger.warning("signing keys unavailable at %s: %r", KEYS_URL, error)
            return False
        return True


published_keys = PublishedKeys()


def main() -> None:
    """Print a token for a user, signed with the secret and valid for an hour."""
    parser = argparse.ArgumentParser()
    parser.add_argument("user_id")
    claims = {"sub": parser.parse_args().user_id, "exp": time.time() + 3600}
    print(jwt.encode(claims, settings.better_auth_secret))


if __name__ == "__main__":
    main()
