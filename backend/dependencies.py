"""What every route of the tasks asks first: who is this, and is it their path?"""

import logging
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.auth.jwt import MAX_TOKEN_LENGTH, Identity, verify

logger = logging.getLogger(__name__)
bearer = HTTPBearer(auto_error=False)
CHALLENGE = {"WWW-Authenticate": "Bearer"}  # what a 401 must have (RFC 6750, section 3)


async def get_current_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Identity:
    """Return whose token it is.

    Raise 401 if it is missing or not genuine, 403 if the path is another user's, and
    UnavailableError if the signing keys are away.
    """
    if credentials is None:
        raise HTTPException(
            401, "Send a token in the header Authorization, as Bearer <token>.", CHALLENGE
        )
    token = credentials.credentials
    try:
        user = await verify(token)
    except jwt.PyJWTError as error:
        logger.warning("token refused: %s", type(error).__name__)
        raise HTTPException(401, explain(error, token), CHALLENGE) from None
    if user_id != user.id:
        raise HTTPException(403, "The token is another user's.")
    return user


def explain(error: jwt.PyJWTError, token: str) -> str:
    """Return what a client is told, with nothing that stands in the token."""
    if isinstance(error, jwt.ExpiredSignatureError):
        return "The token has expired."
    if len(token) > MAX_TOKEN_LENGTH:
        return f"The token is too long: at most {MAX_TOKEN_LENGTH} characters."
    if token.count(".") != 2:
        return "The token is not a JWT; authClient.token() of Better Auth's jwt plugin gives one."
    return "The token is invalid."


CurrentUser = Annotated[Identity, Depends(get_current_user)]
