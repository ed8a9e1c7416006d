"""The app: start and stop, CORS, errors, the router, /health."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import db
from backend.auth.jwt import ORIGIN, KeysUnavailableError, origin
from backend.dependencies import bearer, get_current_user
from backend.models import PATTERN_ERRORS
from backend.routes import tasks

MAX_BODY = 64 * 1024  # bytes

logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
logging.getLogger("backend").setLevel(logging.INFO)
db.create_tables()  # before anything listens


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    db.close()


class LimitBody:
    """Refuse bodies over MAX_BODY as they arrive.

    FastAPI(max_body_size=...) runs a DELETE whose body is too large before it answers 413, in plain text without CORS.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, f"The body must have at most {MAX_BODY} bytes.")
            return message

        await self.app(scope, limited, send)


app = FastAPI(title="Todo backend", lifespan=lifespan, redirect_slashes=False)
app.add_middleware(LimitBody)
app.add_middleware(
    CORSMiddleware,
    allow_origins=[
        ORIGIN,
        *(
            origin("BETTER_AUTH_TRUSTED_ORIGINS", url)
            for url in os.environ.get("BETTER_AUTH_TRUSTED_ORIGINS", "").split(",")
            if url.strip()
        ),
    ],
    allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    allow_headers=["*"],
    allow_credentials=True,
    expose_headers=["Retry-After"],
)
app.include_router(tasks.router)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.exception_handler(RequestValidationError)
@app.exception_handler(400)  # what FastAPI makes of a body that it cannot parse at all
async def refuse_input(request: Request, error: Exception) -> JSONResponse:
    """Answer 400; first 401 and 403, since FastAPI parses a body before it asks whose it is."""
    await get_current_user(request.path_params["user_id"], await bearer(request))
    problem = error.errors()[0] if isinstance(error, RequestValidationError) else {"type": "json_invalid", "loc": ()}
    field = next((str(name) for name in problem["loc"][1:]), "body")
    if problem["type"] == "json_invalid":
        detail = "body: not valid JSON"
    elif problem["type"] == "string_pattern_mismatch":
        detail = f"{field}: {PATTERN_ERRORS[field]}"
    else:
        detail = f"{field}: {problem['msg']}"
    return JSONResponse({"detail": f"{detail}."}, 400)


@app.exception_handler(db.DatabaseUnavailableError)
@app.exception_handler(KeysUnavailableError)
async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """Answer 503: nothing is known to be wrong with the request."""
    what = "database" if isinstance(error, db.DatabaseUnavailableError) else "sign-in service"
    return JSONResponse({"detail": f"The {what} is unavailable; try again."}, 503, {"Retry-After": "2"})
