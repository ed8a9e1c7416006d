"""The todo backend: its settings, and the one error that several modules share."""

import os
import re
from pathlib import Path
from typing import Annotated

import psycopg2.extensions
from pydantic import (
    AfterValidator,
    AliasChoices,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ROOT = Path(__file__).parent.parent
PUBLIC_MARK = "public-development-secret"  # stands in the secret that .env sets
# This finds the address in what was pasted. A password with @ or / in it is refused, because libpq
# would take a part of it for the host, and show it in errors.
DATABASE_URL = re.compile(
    r"""(?x)
    postgres(ql)?(\+\w+)?://  # a driver may be named in between
    (?P<rest>
        ([^\s'"@/]*@)?        # user and password
        [^\s'"@]+             # host, port, database and parameters
    )
    [\s'"]*$                 # the end of quotes, and of a line
    """
)
EXAMPLES = {
    "NEON_DATABASE_URL": "postgresql://user:password@host/database",
    "BETTER_AUTH_SECRET": "what `openssl rand -base64 32` prints",
    "BETTER_AUTH_URL": "https://app.example.com",
}


class UnavailableError(Exception):
    """The database or the signing keys do not answer now; trying again may help."""


def check_database(address: str, info: ValidationInfo) -> str:
    """Return `embedded` or an address as libpq takes it; raise ValueError without repeating it.

    People paste it with another driver's name (postgresql+asyncpg://...), in quotes, or within a
    command (psql 'postgresql://...').
    """
    if address == "embedded":
        return address
    found = DATABASE_URL.search(address)
    url = f"postgresql://{found['rest']}" if found else "no address"
    try:
        psycopg2.extensions.parse_dsn(url)
    except psycopg2.Error:
        raise ValueError(
            "must be embedded, or the address of a PostgreSQL, with the password percent-encoded"
            " and no parameters but libpq's"
        ) from None
    if PUBLIC_MARK in info.data.get("better_auth_secret", ""):
        raise ValueError(
            "names a database of your own, so set BETTER_AUTH_SECRET to the frontend's secret,"
            " which `openssl rand -base64 32` makes, instead of the public one in .env"
        )
    return url


def check_origin(url: AnyHttpUrl) -> AnyHttpUrl:
    if not re.fullmatch("https?://[^/*@?#]+/", str(url)):
        raise ValueError("must be an origin such as https://app.example.com, without a path")
    return url


def split_list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


Origin = Annotated[AnyHttpUrl, AfterValidator(check_origin)]
Names = Annotated[list[str], NoDecode, BeforeValidator(split_list)]


class Settings(BaseSettings):
    """All settings. Each comes from the first of the environment, .env.local and .env."""

    model_config = SettingsConfigDict(
        env_file=(ROOT / ".env", ROOT / ".env.local"),
        env_ignore_empty=True,
        extra="ignore",
        str_strip_whitespace=True,  # Files and commands end in a line break.
        validate_default=False,  # The checks want text; the defaults are fine.
    )

    # 32 bytes are what HS256 wants (RFC 7518, section 3.2). The secret stands before the database,
    # whose check needs it.
    better_auth_secret: Annotated[str, Field(min_length=32)]
    better_auth_url: Origin
    better_auth_trusted_origins: Annotated[list[Origin], NoDecode, BeforeValidator(split_list)] = []
    better_auth_issuer: Names = []
    better_auth_audience: Names = []
    # It is logged, so it must hold no user and password.
    better_auth_jwks_url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")] | None = None
    database_url: Annotated[
        str,
        Field(validation_alias=AliasChoices("NEON_DATABASE_URL", "DATABASE_URL")),
        AfterValidator(check_database),
    ]
    database_pool_size: PositiveInt = 20  # connections

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call, as browsers write them (RFC 6454, section 6.2)."""
        urls = [self.better_auth_url, *self.better_auth_trusted_origins]
        return [str(url).rstrip("/") for url in urls]


def read_settings() -> Settings:
    """Return the settings, or raise SystemExit with one line about the first mistake."""
    try:
        return Settings()  # type: ignore[call-arg] # it reads its fields by itself
    except (OSError, UnicodeError) as error:
        raise SystemExit(f".env.local or .env cannot be read: {error}") from None
    except ValidationError as error:
        mistake = error.errors()[0]
    name = str(mistake["loc"][0]).upper()  # pydantic names the first alias
    if mistake["type"] == "missing":
        raise SystemExit(f"{name} is not set. An example: {EXAMPLES[name]}")
    if name == "NEON_DATABASE_URL" and not os.environ.get(name):
        name = "DATABASE_URL" if os.environ.get("DATABASE_URL") else f"{name} or DATABASE_URL"
    place = "the environment" if os.environ.get(name) else ".env.local or .env"
    raise SystemExit(f"{name}, from {place}: {mistake['msg'].removeprefix('Value error, ')}.")


settings = read_settings()
