"""The todo backend. Importing it loads the settings, and names the times that must fit together."""

import os
from pathlib import Path

from dotenv import load_dotenv

ROOT = Path(__file__).resolve().parent.parent

# Seconds. An answer is due within 5, so all that a request waits for shares one deadline.
DEADLINE = 4.5  # The signing keys, a free connection and the statement together.
KEYS_TIMEOUT = 3.0  # Reading the signing keys. It leaves 1.5 for the database.
STATEMENT_MARGIN = 0.25  # PostgreSQL ends a statement at least this much before the deadline.
TIMEOUT_STEP = 0.5  # The timeout is a multiple of this, and so 4.0 at most.
# Seconds. A start that would wait for longer fails, with one line.
CONNECT_TIMEOUT = 4  # unless the database's address has its own
LOCK_TIMEOUT = 7  # Waiting for another start to end, and as long again for a lock on a table.


class UnavailableError(Exception):
    """The database or the signing keys do not answer now; trying again may help."""


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


def read_setting(name: str) -> str:
    """Return a setting without the blanks around it, or "" if it is not set."""
    return os.environ.get(name, "").strip()


def read_number(name: str, *, default: int, most: int) -> int:
    """Return a setting that is a whole number from 1 to `most`, or raise SystemExit."""
    text = os.environ.get(name) or str(default)
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    raise SystemExit(f"{name} must be a whole number from 1 to {most}.")


load_settings()
