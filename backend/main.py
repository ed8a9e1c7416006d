"""The app: what concerns every route, and the start."""

import gc
import logging
import traceback
from dataclasses import dataclass

import psycopg2
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import UnavailableError, settings
from backend.auth.jwt import ISSUERS, KEYS_URL
from backend.db import start
from backend.routes import tasks

MAX_BODY_SIZE = 65536  # bytes
DESCRIPTION = """
Keeps each user's tasks for a frontend where people sign in with Better Auth.

**Token.** Every route of the tasks wants `Authorization: Bearer <token>`, a JWT whose `sub` is
the user's id, which stands in the path, too. It is one of two kinds: what Better Auth's jwt plugin
gives (`authClient.token()`), or one that is signed HS256 with `BETTER_AUTH_SECRET`. On your own
machine `python -m backend.auth.jwt ada` prints one for the user `ada`.

**Errors** are `{"detail": "<one sentence>"}`.
"""

logger = logging.getLogger(__name__)


# FastAPI's own max_body_size (0.165) carries out a DELETE with a large body, and then answers 413,
# in plain text and without CORS headers.
@dataclass
class BodyLimitMiddleware:
    """Refuse a body that is too large with 413 when a route reads it, and so before it acts.

    FastAPI answers the HTTPException that `receive` raises.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_SIZE:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_SIZE} bytes.")
            return message

        await self.app(scope, receive_within_limit, send)


app = FastAPI(
    title="Todo",
    version="1.0.0",
    description=DESCRIPTION,
    generate_unique_id_function=lambda route: route.name,  # the name in generated clients
    redirect_slashes=False,  # A redirect would go to whatever host the Host header names.
)
app.include_router(tasks.router)
app.add_middleware(BodyLimitMiddleware)
app.add_middleware(
    CORSMiddleware,
    allow_origins=settings.origins,
    allow_methods=["*"],
    allow_headers=["*"],
    allow_credentials=True,  # Some pages send cookies along, which are not read here.
    expose_headers=["Retry-After"],
)


@app.exception_handler(RequestValidationError)
async def refuse_input(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 400 with the first rule that is broken, and never with the input itself."""
    first = error.errors()[0]
    # As in ("body", "title"), or ("body", 12) for broken JSON, where 12 is a position.
    field = [name for name in first["loc"] if isinstance(name, str)][-1]
    return JSONResponse({"detail": f"{field}: {first['msg']}"}, 400)


@app.exception_handler(UnavailableError)
async def unavailable(_request: Request, _error: UnavailableError) -> JSONResponse:
    """Answer 503 to a failure that may be over soon."""
    return JSONResponse(
        {"detail": "The database or the sign-in keys are unavailable."}, 503, {"Retry-After": "5"}
    )


@app.exception_handler(psycopg2.Error)
async def statement_refused(_request: Request, error: psycopg2.Error) -> JSONResponse:
    """Answer 409 if a rule of tables that others made refuses a statement, and otherwise 500.

    PostgreSQL's own message may quote the user's data, so the log goes without it.
    """
    logger.error(
        "statement refused: %s, table %s, column %s\n%s",
        type(error).__name__,
        error.diag.table_name,
        error.diag.column_name,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    if isinstance(error, psycopg2.IntegrityError):
        return JSONResponse({"detail": "A rule of the tables refuses this."}, 409)
    return JSONResponse({"detail": "The database has refused this statement."}, 500)


@app.head("/health", include_in_schema=False)
@app.get("/health")
async def health() -> dict[str, str]:
    """This needs no token, and does not wake the database."""
    return {"status": "ok"}


@app.get("/", include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# FastAPI keeps this OpenAPI document, so all routes stand above. 422 is taken out of it, because
# `refuse_input` answers 400 instead.
document = app.openapi()
for operations in document["paths"].values():
    for operation in operations.values():
        operation["responses"].pop("422", None)
schemas = document["components"]["schemas"]
del schemas["HTTPValidationError"], schemas["ValidationError"]


# The start. It stands here and not in `lifespan`, whose failure would be a traceback. So a mistake
# is one line before uvicorn listens, and `python -m backend.main` checks everything, and ends.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
database = start()
logger.info(
    "database %s, issuers %s, keys %s, origins %s", database, ISSUERS, KEYS_URL, settings.origins
)
# Under load the garbage collector took a sixth of the CPU. So it passes over what exists now, and
# runs less often: Python 3.11 has 700, 10 and 10.
gc.freeze()
gc.set_threshold(5_000, 20, 100)
