"""The app: its start, origins, error answers, and what is not about tasks."""

import gc
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg2
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.middleware import Middleware
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import UnavailableError, read_setting
from backend.auth.jwt import ISSUER, KEYS_URL, ORIGIN, read_origin
from backend.db import describe_database, find_database, pool, prepare_tables
from backend.dependencies import bearer, get_current_user
from backend.models import RULES, Health
from backend.routes import tasks

MAX_BODY_SIZE = 65536  # bytes
RETRY_AFTER = "5"  # seconds
DESCRIPTION = """
Keeps each user's tasks for a frontend where people sign in with Better Auth.

**Token.** Every route of the tasks wants `Authorization: Bearer <token>`, a JWT whose `sub` is
the user's id, which stands in the path, too. It is one of two kinds: what Better Auth's jwt plugin
gives (`authClient.token()`), or one that is signed HS256 with `BETTER_AUTH_SECRET`. On your own
machine `python -m backend.auth.jwt ada` prints one for the user `ada`.

**Errors** are `{"detail": "<one sentence>"}`. Of several that apply, you get the first of 413
(too large), 401 (no genuine token), 403 (another user's path), 400 (not valid), 404 (no such task
of this user) and 409 (too many tasks, or first sign up).
"""

logger = logging.getLogger(__name__)


def read_origins() -> list[str]:
    """Return the origins whose pages may call, or raise SystemExit."""
    name = "BETTER_AUTH_TRUSTED_ORIGINS"
    addresses = read_setting(name).split(",")
    return [ORIGIN] + [read_origin(name, address) for address in addresses if address.strip()]


ORIGINS = read_origins()


def start() -> None:
    """Get the database ready, and log what is in use; raise SystemExit with one line.

    It happens before uvicorn listens, and not in `lifespan`, whose failure would be a traceback. As
    it is called when this module is imported, `python -m backend.main` checks everything, and ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    database = find_database()
    prepare_tables(database, tasks.STATEMENTS, tasks.TRIAL)
    pool.use(database)
    logger.info(
        "database %s, issuer %s, keys %s, origins %s",
        describe_database(database),
        ISSUER,
        KEYS_URL,
        " ".join(ORIGINS),
    )


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close the connections when the service stops."""
    yield
    pool.close_idle()


class BodyLimitMiddleware:
    """Refuse a body over `max_size` bytes with 413 while it arrives.

    FastAPI calls `receive` to read the body, when it has found the route. If that raises an
    HTTPException, FastAPI passes it on and answers it as one that a route raises. A body that no
    route reads is ignored.

    FastAPI's own max_body_size (0.165) carries out a DELETE with a large body, and then answers
    413, in plain text and without CORS headers.
    """

    def __init__(self, app: ASGIApp, max_size: int) -> None:
        self.app = app
        self.max_size = max_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_size:
                raise HTTPException(413, f"The body is larger than {self.max_size} bytes.")
            return message

        await self.app(scope, receive_within_limit, send)


class App(FastAPI):
    """FastAPI, but its document does not name 422: `refuse_input` answers 400 instead."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


async def check_user(request: Request) -> None:
    """Raise 401, 403 or 503, as get_current_user does.

    It needs the user_id of the path, which every route with input must therefore have.
    """
    await get_current_user(request.path_params["user_id"], await bearer(request))


async def refuse_input(request: Request, error: Exception) -> JSONResponse:
    """Answer 400 and name the field, but first 401, 403 or 503.

    FastAPI parses the body before it runs get_current_user. So if it cannot parse the body, nobody
    has checked the user yet. (For other input that is not valid, this is a needless second check.)

    What check_user raises is answered as if a route had raised it: Starlette handles exceptions not
    only around each route, where this runs, but once more around all routes.
    """
    await check_user(request)
    field = "body"
    if isinstance(error, RequestValidationError):
        # The field stands last, as in ("body", "title"). For broken JSON, a position in the text
        # stands there.
        field = error.errors()[0]["loc"][-1]
    return JSONResponse({"detail": RULES.get(field, RULES["body"])}, 400)


async def not_found(_request: Request, error: HTTPException) -> JSONResponse:
    """Answer 404, with a sentence of ours instead of Starlette's two words."""
    detail = error.detail
    if detail == "Not Found":
        detail = "There is nothing at this address."
    return JSONResponse({"detail": detail}, 404)


async def method_not_allowed(request: Request, _error: HTTPException) -> JSONResponse:
    """Answer 405 with the methods of all routes at this address, as RFC 9110 (15.5.6) wants.

    Starlette names those of the first route only.
    """
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", set())
    headers = {"Allow": ", ".join(sorted(methods))}
    return JSONResponse({"detail": "This address does not take this method."}, 405, headers)


async def unavailable(_request: Request, _error: Exception) -> JSONResponse:
    """Answer 503 to a failure that may be over soon."""
    detail = "The database or the sign-in keys are unavailable."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": RETRY_AFTER})


async def statement_failed(_request: Request, error: psycopg2.Error) -> JSONResponse:
    """Answer 500 if the database refuses a statement: a table was changed, or there is a bug.

    PostgreSQL's own message may quote the user's data, so the log goes without it.
    """
    logger.error(
        "statement failed: %s, table %s, column %s\n%s",
        type(error).__name__,
        error.diag.table_name,
        error.diag.column_name,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    return JSONResponse({"detail": "The database has refused this statement."}, 500)


def collect_less_garbage() -> None:
    """Let the garbage collector run less often, and pass over what exists now.

    Under load it took a sixth of the CPU, and one request in twenty had to wait for it.
    """
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)  # Python 3.11 has 700, 10 and 10.


router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health", operation_id="health", summary="Tell that the service runs")
async def health() -> Health:
    """This needs no token, and does not wake the database."""
    return Health()


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    return RedirectResponse("/docs")


def create_app() -> FastAPI:
    """Start the service, and return its app."""
    start()
    app = App(
        title="Todo",
        version="1.0.0",
        description=DESCRIPTION,
        # FastAPI 0.165's include_router keeps the router, and so matches every request twice: in
        # the app and again in the router. Without it, a request takes 6 % less CPU.
        routes=[*tasks.router.routes, *router.routes],
        redirect_slashes=False,  # A redirect would go to whatever host the Host header names.
        lifespan=lifespan,
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=ORIGINS,
                allow_methods=["*"],
                allow_headers=["*"],
                allow_credentials=True,  # Some pages send cookies along, which are not read here.
                expose_headers=["Retry-After"],
            ),
            Middleware(BodyLimitMiddleware, max_size=MAX_BODY_SIZE),
        ],
        exception_handlers={
            RequestValidationError: refuse_input,
            400: refuse_input,  # for a body that FastAPI cannot parse
            404: not_found,
            405: method_not_allowed,
            UnavailableError: unavailable,
            psycopg2.Error: statement_failed,
        },
    )
    collect_less_garbage()
    return app


app = create_app()  # at import, where uvicorn and the hosts expect it
