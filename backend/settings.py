"""The settings, read from the environment and the .env files when this is imported, and checked.

A mistake raises SystemExit with one line.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

import jwt
from dotenv import load_dotenv
from pydantic import AnyHttpUrl

ROOT = Path(__file__).resolve().parent.parent


def accept_database_url() -> None:
    """Let a DATABASE_URL name the database, unless a NEON_DATABASE_URL already does."""
    url = os.environ.get("DATABASE_URL")
    if url and not os.environ.get("NEON_DATABASE_URL"):
        os.environ["NEON_DATABASE_URL"] = url


def load_settings() -> None:
    """Load .env.local, then .env; what is set already stays.

    The first of the environment, .env.local and .env that names a database decides, whether it
    says NEON_DATABASE_URL or DATABASE_URL. So a DATABASE_URL that a host sets beats the
    NEON_DATABASE_URL of .env.
    """
    accept_database_url()
    for name in (".env.local", ".env"):
        load_dotenv(ROOT / name)
        accept_database_url()


def read_number(name: str, *, default: int, most: int) -> int:
    """Return a setting that is a whole number from 1 to `most`, or raise SystemExit."""
    text = os.environ.get(name) or str(default)
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    raise SystemExit(f"{name} must be a whole number from 1 to {most}.")


def read_secret() -> str:
    """Return BETTER_AUTH_SECRET, or raise SystemExit if HS256 would not be safe with it."""
    secret = os.environ.get("BETTER_AUTH_SECRET", "").rstrip("\r\n")  # the end of a file
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


def read_origins(own: str) -> list[str]:
    """Return the origins whose pages may call, `own` first, or raise SystemExit."""
    name = "BETTER_AUTH_TRUSTED_ORIGINS"
    addresses = os.environ.get(name, "").split(",")
    return [own] + [read_origin(name, address) for address in addresses if address.strip()]


load_settings()
NEON_DATABASE_URL = os.environ.get("NEON_DATABASE_URL", "").strip()
POOL_SIZE = read_number("DATABASE_POOL_SIZE", default=20, most=9999)
MAX_TASKS = read_number("MAX_TASKS_PER_USER", default=10_000, most=1_000_000)
SECRET = read_secret()
URL = os.environ.get("BETTER_AUTH_URL", "").strip()
ORIGIN = read_origin("BETTER_AUTH_URL", URL)
ISSUER = os.environ.get("BETTER_AUTH_ISSUER") or ORIGIN
AUDIENCE = os.environ.get("BETTER_AUTH_AUDIENCE") or ORIGIN
AUTH_PATH = urlsplit(URL).path.rstrip("/") or "/api/auth"
KEYS_URL = os.environ.get("BETTER_AUTH_JWKS_URL", "").strip() or f"{ORIGIN}{AUTH_PATH}/jwks"
read_origin("BETTER_AUTH_JWKS_URL", KEYS_URL)  # only to refuse what is no address
ORIGINS = read_origins(ORIGIN)
