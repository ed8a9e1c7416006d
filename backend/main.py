"""The app: start, CORS, errors, the router, /health."""

import logging
import os

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import db
from backend.auth.jwt import ORIGIN, origin
from backend.dependencies import bearer, get_current_user
from backend.models import RULES
from backend.routes import tasks


def limit_body(app: ASGIApp) -> ASGIApp:
    """Refuse a body over 64 KiB as it arrives; FastAPI's max_body_size does so in plain text, and after a DELETE."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            scope["size"] = scope.get("size", 0) + len(message.get("body", b""))
            if scope["size"] > 65536:
                raise HTTPException(413, "The body is larger than 65536 bytes.")
            return message

        await app(scope, counted, send)

    return limited


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
db.create_tables()  # before anything listens
app = FastAPI(title="Todo", on_shutdown=db.closing, redirect_slashes=False)
app.add_middleware(limit_body)
trusted = [url for url in os.environ.get("BETTER_AUTH_TRUSTED_ORIGINS", "").split(",") if url.strip()]
origins, all_ = [ORIGIN, *(origin("BETTER_AUTH_TRUSTED_ORIGINS", url) for url in trusted)], ["*"]
app.add_middleware(
    CORSMiddleware, allow_origins=origins, allow_credentials=True, allow_methods=all_, allow_headers=all_
)
app.include_router(tasks.router)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


for path in app.openapi()["paths"].values():
    for operation in path.values():
        operation["responses"].pop("4XX", None)  # see routes.tasks


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
    """Answer 503, with the seconds after which it may go better."""
    return JSONResponse({"detail": "The database or the sign-in keys are unavailable."}, 503, {"Retry-After": "5"})
