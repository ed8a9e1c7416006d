"""Tokens: which are genuine, and whose they are."""

import argparse
import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
from pydantic import AnyHttpUrl

from backend import KEYS_TIMEOUT, UnavailableError, read_setting

PLUGIN_ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")  # of Better Auth's jwt plugin
MAX_TOKEN_LENGTH = 8192  # PyJWT looks at every byte, genuine or not.
MAX_REMEMBERED_TOKENS = 2048
# Seconds.
LEEWAY = 30  # Clocks may differ by so much.
KEYS_FRESH = 300  # The published keys are good for so long before they are read again.
KEYS_RETRY = 10  # At least so much time passes between two attempts to read them.
KEYS_IDLE = 600  # After so long without an attempt, a request with a known key waits for one, too.

Claims = dict[str, Any]
KeySet = dict[str, Any]

logger = logging.getLogger(__name__)


def read_secret() -> str:
    """Return BETTER_AUTH_SECRET, or raise SystemExit if HS256 would not be safe with it."""
    secret = os.environ.get("BETTER_AUTH_SECRET", "")
    secret = secret.rstrip("\r\n")  # A file's last line break is not part of it, but blanks may be.
    if len(secret.encode()) < 32:
        raise SystemExit("BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SystemExit("BETTER_AUTH_SECRET must not be a public key or certificate.") from None
    return secret


def read_origin(name: str, address: str) -> str:
    """Return the origin of an address as browsers write it (RFC 6454, section 6.2).

    Raise SystemExit with the name of the setting if it is no address, or has a wildcard or a
    password in it.
    """
    try:
        url = AnyHttpUrl(address.strip())
    except ValueError:
        url = None
    if url is None or url.username or url.password or "*" in address:
        raise SystemExit(f"{name} must be an address such as https://app.example.com.")
    scheme, _, host, *_ = str(url).split("/")  # "https:", "" and "app.example.com:8443"
    return f"{scheme}//{host}"


SECRET = read_secret()
URL = read_setting("BETTER_AUTH_URL")
ORIGIN = read_origin("BETTER_AUTH_URL", URL)
ISSUER = read_setting("BETTER_AUTH_ISSUER") or ORIGIN
AUDIENCE = read_setting("BETTER_AUTH_AUDIENCE") or ORIGIN
AUTH_PATH = urlsplit(URL).path.rstrip("/") or "/api/auth"
KEYS_URL = read_setting("BETTER_AUTH_JWKS_URL") or f"{ORIGIN}{AUTH_PATH}/jwks"
read_origin("BETTER_AUTH_JWKS_URL", KEYS_URL)  # only to refuse what is no address


@dataclass(frozen=True)
class Identity:
    """Whose a token is."""

    id: str
    email: str | None = None
    name: str | None = None


# Genuine tokens, and the Unix time until which each is believed without another check.
remembered: dict[str, tuple[Identity, float]] = {}


class PublishedKeys:
    """The keys that the frontend publishes (RFC 7517). They outlive an outage of their address.

    They are read only when a request needs it, in three cases:
    - The request's key is unknown. The request waits for the reading.
    - The key is known, but nobody has tried to read the keys for KEYS_IDLE. The request waits, for
      its key may have been withdrawn.
    - Otherwise, if the keys were read more than KEYS_FRESH ago. The request does not wait.

    If a reading fails, the old keys serve on, however old: an outage signs nobody out. After each
    reading there is no other for KEYS_RETRY, and nobody waits for one.
    """

    def __init__(self, url: str) -> None:
        self.client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=KEYS_TIMEOUT)
        # An answer that trickles without end would keep one of the event loop's own threads for
        # ever. Without uvloop, db.py needs those to look up names. So the keys have other threads.
        self.threads = ThreadPoolExecutor(max_workers=4)
        self.key_set: KeySet = {}  # as it was read last
        self.keys: dict[str, jwt.PyJWK] = {}  # those in it that can be used, by their ids
        self.attempt: asyncio.Task[None] | None = None  # while the keys are being read
        # On the clock of time.monotonic().
        self.tried_at = float("-inf")  # when the last attempt ended
        self.fresh_until = float("-inf")

    async def get(self, kid: str | None) -> jwt.PyJWK:
        """Return the key with this id.

        Raise InvalidSignatureError if there is none, and UnavailableError if nobody can say.
        """
        if kid is None:
            raise jwt.InvalidSignatureError
        if kid not in self.keys or self.seconds_untried() > KEYS_IDLE:
            self.begin_reading()
            if self.attempt:
                await asyncio.wait([self.attempt])  # A request that is cancelled does not end it.
        elif self.fresh_seconds() == 0:
            self.begin_reading()  # for later requests
        if kid in self.keys:
            return self.keys[kid]
        if self.fresh_seconds() > 0:
            raise jwt.InvalidSignatureError  # The keys are new enough to be believed.
        raise UnavailableError

    def begin_reading(self) -> None:
        """Begin to read the keys, unless that is under way, or was tried a moment ago."""
        if self.attempt is None and self.seconds_untried() >= KEYS_RETRY:
            self.attempt = asyncio.create_task(self.read())

    def seconds_untried(self) -> float:
        """Return the time since the last attempt to read the keys."""
        return time.monotonic() - self.tried_at

    def fresh_seconds(self) -> float:
        """Return for how long the keys need not be read again, or 0."""
        return max(0.0, self.fresh_until - time.monotonic())

    async def read(self) -> None:
        """Read the keys in a thread, and put them in place here, on the event loop."""
        try:
            # The client's own timeout starts again with each byte, and an answer may trickle.
            loop = asyncio.get_running_loop()
            fetching = loop.run_in_executor(self.threads, self.client.fetch_data)
            key_set = await asyncio.wait_for(fetching, KEYS_TIMEOUT)
            keys = usable_keys(key_set)
        except Exception as error:  # noqa: BLE001 - anything may stand at that address
            name = type(error).__name__
            logger.warning("signing keys unavailable at %s: %s", self.client.uri, name)
        else:
            if key_set != self.key_set:
                remembered.clear()  # The key of some of these tokens may be withdrawn.
            self.key_set = key_set
            self.keys = keys
            self.fresh_until = time.monotonic() + KEYS_FRESH
        finally:
            self.attempt = None
            self.tried_at = time.monotonic()


def usable_keys(key_set: KeySet) -> dict[str, jwt.PyJWK]:
    """Return the keys of a key set by their ids, without odd ones; raise LookupError for none."""
    keys = {}
    for member in key_set["keys"]:
        try:
            key = jwt.PyJWK(member)
            is_ours = key.algorithm_name in PLUGIN_ALGORITHMS
            if is_ours and key.public_key_use in ("sig", None) and isinstance(key.key_id, str):
                keys[key.key_id] = key
        except Exception:  # noqa: BLE001, S112 - an odd key must not cost the others
            continue
    if not keys:
        raise LookupError
    return keys


published_keys = PublishedKeys(KEYS_URL)


async def verify(token: str) -> Identity:
    """Return whose token it is.

    Raise PyJWTError if it is not genuine, and UnavailableError if nobody can say.
    """
    if token in remembered:
        identity, believed_until = remembered[token]
        if time.time() < believed_until:
            return identity
    if len(token) > MAX_TOKEN_LENGTH:
        raise jwt.DecodeError
    unverified = jwt.decode_complete(token, options={"verify_signature": False})
    header = unverified["header"]
    is_of_plugin = header.get("alg") in PLUGIN_ALGORITHMS
    if is_of_plugin:
        key: Any = await published_keys.get(header.get("kid"))
        algorithm = key.algorithm_name  # never the one that the token names
        # While old keys serve on, fresh_seconds() is 0: the token is checked each time it comes.
        believed_until = time.time() + published_keys.fresh_seconds()
    else:
        key = SECRET
        algorithm = "HS256"  # A token with any other algorithm is refused below.
        believed_until = float("inf")
    claims = jwt.decode(
        token,
        key,
        algorithms=[algorithm],
        options={
            "require": ["exp", "sub"],
            # The plugin always names issuer and audience. A shared secret's token need not.
            "verify_iss": is_of_plugin or "iss" in unverified["payload"],
            "verify_aud": is_of_plugin or "aud" in unverified["payload"],
        },
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=LEEWAY,
    )
    identity = read_identity(claims)
    if len(remembered) >= MAX_REMEMBERED_TOKENS:
        remembered.clear()
    remembered[token] = identity, min(believed_until, int(claims["exp"]) + LEEWAY)
    return identity


def read_identity(claims: Claims) -> Identity:
    """Return whose a token is, by its `sub` alone, or raise PyJWTError."""
    user_id = claims["sub"]  # PyJWT has made sure that it is text.
    if not 1 <= len(user_id) <= 255 or not user_id.isprintable():
        raise jwt.InvalidTokenError
    return Identity(user_id, storable(claims, "email"), storable(claims, "name"))


def storable(claims: Claims, name: str) -> str | None:
    """Return a claim as text that `users` takes: cut off, without NUL and lone surrogates."""
    text = str(claims.get(name) or "").replace("\0", "")[:255]
    return text.encode(errors="ignore").decode() or None


def explain(error: jwt.PyJWTError) -> str:
    """Return why a token was refused, for the log, with nothing that stands in the token."""
    expected = ""
    if isinstance(error, jwt.InvalidIssuerError):
        expected = f", expected {ISSUER}"
    if isinstance(error, jwt.InvalidAudienceError):
        expected = f", expected {AUDIENCE}"
    return type(error).__name__ + expected


def main() -> None:
    """Print a token for a user, signed with the secret."""
    parser = argparse.ArgumentParser(
        prog="python -m backend.auth.jwt", description="Print a token for a user."
    )
    parser.add_argument("user_id")
    help_text = "how long it is valid (default: %(default)s)"
    parser.add_argument("--seconds", type=int, default=3600, help=help_text)
    arguments = parser.parse_args()
    claims = {"sub": arguments.user_id, "exp": int(time.time()) + arguments.seconds}
    print(jwt.encode(claims, SECRET))


if __name__ == "__main__":
    main()
