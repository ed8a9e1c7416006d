"""The app: start, CORS, errors, the router, /health."""

import gc
import logging
import os

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.types import Message, Receive, Scope

from backend import db
from backend.auth.jwt import ORIGIN, origin
from backend.dependencies import bearer, get_current_user
from backend.models import RULES
from backend.routes import tasks


async def limit_body(scope: Scope, receive: Receive) -> Message:
    """Receive, or raise 413 once a body exceeds 64 KiB; max_body_size does so in plain text, and after a DELETE."""
    message = await receive()
    scope["size"] = scope.get("size", 0) + len(message.get("body", b""))
    if scope["size"] > 65536:
        raise HTTPException(413, "The body is larger than 65536 bytes.")
    return message


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
db.create_tables()  # before anything listens
app = FastAPI(title="Todo", on_shutdown=db.on_shutdown, redirect_slashes=False)
app.add_middleware(lambda app: lambda scope, receive, send: app(scope, lambda: limit_body(scope, receive), send))
trusted = [url for url in os.environ.get("BETTER_AUTH_TRUSTED_ORIGINS", "").split(",") if url.strip()]
origins, any_ = [ORIGIN, *(origin("BETTER_AUTH_TRUSTED_ORIGINS", url) for url in trusted)], ["*"]
app.add_middleware(CORSMiddleware, origins, any_, any_, allow_credentials=True)  # any method, any header
app.router.routes += tasks.router.routes  # include_router would match each request twice


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.exception_handler(RequestValidationError)
@app.exception_handler(400)  # for a body that FastAPI cannot parse
async def refuse_input(request: Request, error: Exception) -> JSONResponse:
    """Answer 400; but 401 or 403 first, for FastAPI parses the body before it asks whose it is."""
    await get_current_user(request.path_params["user_id"], await bearer(request))  # type: ignore[arg-type]
    where = error.errors()[0]["loc"] if isinstance(error, RequestValidationError) else ()
    field = next((name for name in where[1:] if name in RULES), "body")
    return JSONResponse({"detail": f"{field} {RULES[field]}."}, 400)


@app.exception_handler(ConnectionError)
async def unavailable(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The database or the sign-in keys are unavailable."}, 503, {"Retry-After": "5"})


for path, operations in app.openapi()["paths"].items():
    allow = {"Allow": ", ".join(operations).upper()}  # the routes' own 405 names the methods of one alone
    app.add_route(path, JSONResponse({"detail": "Method Not Allowed"}, 405, allow))  # type: ignore[arg-type]
for operation in (operation for operations in app.openapi()["paths"].values() for operation in operations.values()):
    operation["responses"].pop("4XX", None)  # see routes.tasks
gc.freeze()  # what was made so far stays: nothing in it for the collector to find
