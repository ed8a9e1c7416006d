"""The one question that every route asks: who is this, and is it their path?"""

import logging
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.auth.jwt import Identity, verify

logger = logging.getLogger(__name__)
bearer = HTTPBearer(bearerFormat="JWT", description="A token of Better Auth.")


async def get_current_user(user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> Identity:
    """Return whose token it is; raise 401 unless it is genuine, and 403 unless the path is that user's."""
    try:
        user = await verify(credentials.credentials)
    except jwt.InvalidTokenError as error:
        logger.warning("token refused: %s", type(error).__name__)
        state = "expired" if isinstance(error, jwt.ExpiredSignatureError) else "invalid"
        raise HTTPException(401, f"The token is {state}.", {"WWW-Authenticate": "Bearer"}) from None
    if user_id != user.id:
        raise HTTPException(403, "The token is for another user.")
    return user


CurrentUser = Annotated[Identity, Depends(get_current_user)]
