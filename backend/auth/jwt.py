"""Tokens: which are genuine, and whose they are. Knows no HTTP."""

import argparse
import asyncio
import logging
import os
import time
from urllib.parse import urlsplit

import jwt
from jwt.types import Options
from pydantic import AnyHttpUrl

from backend.models import User


def origin(variable: str, address: str) -> str:
    """Return an address's origin as browsers write it (RFC 6454, section 6.2), or raise SystemExit."""
    try:
        return "/".join(str(AnyHttpUrl(address.strip().replace("*", " "))).split("/")[:3])
    except ValueError:
        raise SystemExit(f"{variable} must be an address such as https://app.example.com.") from None


SECRET = os.environ.get("BETTER_AUTH_SECRET", "")
if len(SECRET.encode()) < 32:
    raise SystemExit("BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).")
URL = os.environ.get("BETTER_AUTH_URL", "").strip()
ORIGIN = origin("BETTER_AUTH_URL", URL)
ISSUER, AUDIENCE = (os.environ.get(name) or ORIGIN for name in ("BETTER_AUTH_ISSUER", "BETTER_AUTH_AUDIENCE"))
KEYS_URL = os.environ.get("BETTER_AUTH_JWKS_URL") or f"{ORIGIN}{urlsplit(URL).path.rstrip('/') or '/api/auth'}/jwks"
origin("BETTER_AUTH_JWKS_URL", KEYS_URL)
LEEWAY = 30  # seconds


# PyJWKClient only fetches and parses: its cache makes all wait while the address hangs, and ends while it is down.
class PublishedKeys:
    client = jwt.PyJWKClient(KEYS_URL, cache_jwk_set=False, timeout=3)
    found: dict[str | None, jwt.PyJWK] = {}  # noqa: RUF012 - replaced, never changed
    stale = retry = 0.0  # the Unix time until which they are known to be all, the monotonic one of the next attempt

    async def get(self, kid: str | None) -> jwt.PyJWK:
        """Return a key; raise InvalidTokenError if there is none such, or ConnectionError if nobody can say."""
        if (kid not in self.found or time.time() > self.stale) and time.monotonic() > self.retry:
            self.stale, self.retry = 0.0, time.monotonic() + 60
            self.reading = asyncio.create_task(asyncio.to_thread(self.read))
        if kid not in self.found:
            await asyncio.wait([self.reading], timeout=3)
        if kid not in self.found:
            raise jwt.InvalidSignatureError if time.time() < self.stale else ConnectionError
        return self.found[kid]

    def read(self) -> None:
        """Read the keys, whatever may stand at their address, and let 10 s pass until the next attempt."""
        try:
            self.found = {key.key_id: key for key in self.client.get_signing_keys()}
            self.stale = time.time() + 300
            remembered.clear()
        except (jwt.PyJWTError, OSError, ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
            logging.getLogger(__name__).warning("signing keys unavailable: %s", type(error).__name__)
        self.retry = time.monotonic() + 10


published = PublishedKeys()
remembered: dict[str, tuple[User, float]] = {}  # genuine tokens, and until what Unix time they need no new look


async def verify(token: str) -> User:
    """Return whose token it is; raise InvalidTokenError if it is not genuine, or ConnectionError without the keys."""
    user, until = remembered.get(token, (None, 0.0))
    if user and time.time() < until:
        return user
    if len(token) > 8192:  # PyJWT looks at every byte, genuine or not
        raise jwt.DecodeError
    parts = jwt.decode_complete(token, options={"verify_signature": False})
    by_plugin = parts["header"].get("alg") in ("EdDSA", "ES256", "ES512", "RS256", "PS256")
    key = await published.get(parts["header"].get("kid")) if by_plugin else SECRET
    algorithms = [key.algorithm_name] if isinstance(key, jwt.PyJWK) else ["HS256"]  # never the token's own word
    iss, aud = (by_plugin or claim in parts["payload"] for claim in ("iss", "aud"))  # the plugin always names both
    checks: Options = {"require": ["exp", "sub"], "verify_iss": iss, "verify_aud": aud}
    claims = jwt.decode(token, key, algorithms, checks, issuer=ISSUER, audience=AUDIENCE, leeway=LEEWAY)
    if not (1 <= len(claims["sub"]) <= 255 and claims["sub"].isprintable()):
        raise jwt.InvalidTokenError
    texts = (str(claims.get(claim) or "").encode(errors="ignore").decode() for claim in ("email", "name"))
    email, name = (text.replace("\0", "") or None for text in texts)  # PostgreSQL holds no NUL and no lone surrogate
    user = User(id=claims["sub"], email=email, name=name)
    if len(remembered) >= 2048:
        remembered.clear()
    remembered[token] = user, min(int(claims["exp"]) + LEEWAY, published.stale if by_plugin else float("inf"))
    return user


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m backend.auth.jwt", description="Print a token for a user.")
    parser.add_argument("user_id")
    parser.add_argument("--seconds", type=int, default=3600, help="how long it is valid (default: %(default)s)")
    options = parser.parse_args()
    print(jwt.encode({"sub": options.user_id, "exp": int(time.time()) + options.seconds}, SECRET))
