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
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > 65536:
                raise HTTPException(413, "The body is larger than 65536 bytes.")
            return message

        await app(scope, counted, send)

    return limited


logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
logging.getLogger("backend").setLevel(logging.INFO)
db.create_tables()  # before anything listens
app = FastAPI(title="Todo", lifespan=db.lifespan, redirect_slashes=False)
app.add_middleware(limit_body)
trusted = [url for url in os.environ.get("BETTER_AUTH_TRUSTED_ORIGINS", "").split(",") if url.strip()]
origins = [ORIGIN, *(origin("BETTER_AUTH_TRUSTED_ORIGINS", url) for url in trusted)]
every = ["*"]
app.add_middleware(
    CORSMiddleware, allow_origins=origins, allow_methods=every, allow_headers=every, allow_credentials=True
)
app.include_router(tasks.router)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.exception_handler(RequestValidationError)
@app.exception_handler(400)  # for a body that FastAPI cannot parse
async def refuse_input(request: Request, error: Exception) -> JSONResponse:
    """Answer 400; but 401 or 403 first, for FastAPI parses the body before it asks whose it is."""
    token = await bearer(request)
    await get_current_user(request.path_params["user_id"], token)  # type: ignore[arg-type]  # it raises rather than give None
    where = error.errors()[0]["loc"] if isinstance(error, RequestValidationError) else ()
    field = next((name for name in where[1:] if name in RULES), "body")
    return JSONResponse({"detail": f"{field} {RULES[field]}."}, 400)


@app.exception_handler(ConnectionError)
async def unavailable(_request: Request, _error: Exception) -> JSONResponse:
    """Answer 503, with the seconds after which it may go better."""
    return JSONResponse({"detail": "The database or the sign-in keys are unavailable."}, 503, {"Retry-After": "5"})


for path in app.openapi()["paths"].values():
    for operation in path.values():
        operation["responses"].pop("422", None)  # FastAPI lists it for any parameter; here it is 400
