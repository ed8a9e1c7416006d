"""What every route of the tasks asks first: who is this, and is it their path?"""

import logging
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.auth.jwt import Identity, explain, verify
from backend.db import start_deadline

NOT_SENT = "Send a token in the header Authorization, as Bearer <token>."
EXPIRED = "The token has expired."
NOT_GENUINE = "The token is invalid."
NO_JWT = "The token is not a JWT; authClient.token() of Better Auth's jwt plugin gives one."

logger = logging.getLogger(__name__)
bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)


def refusal(detail: str) -> HTTPException:
    """Return a 401, with the header that RFC 6750, section 3 asks for."""
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Identity:
    """Return whose token it is, and start the request's deadline, which `fetch` needs.

    Raise 401 if it is missing or not genuine, 403 if the path is another user's, and
    UnavailableError if the signing keys are away.
    """
    start_deadline()  # here, because `verify` may wait for the signing keys
    if credentials is None:
        raise refusal(NOT_SENT)
    token = credentials.credentials
    try:
        user = await verify(token)
    except jwt.PyJWTError as error:
        logger.warning("token refused: %s", explain(error))
        if isinstance(error, jwt.ExpiredSignatureError):
            raise refusal(EXPIRED) from None
        if token.count(".") != 2:
            raise refusal(NO_JWT) from None
        raise refusal(NOT_GENUINE) from None
    if user_id != user.id:
        raise HTTPException(403, "The token is another user's.")
    return user


CurrentUser = Annotated[Identity, Depends(get_current_user)]
