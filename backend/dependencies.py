"""The one question before every route: who is this, and is it their path?"""

import logging
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.auth.jwt import verify
from backend.models import User

bearer = HTTPBearer(bearerFormat="JWT")


async def get_current_user(user_id: str, token: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> User:
    """Return whose token it is; raise 401 if it is not genuine, and 403 if the path is another user's."""
    try:
        user = await verify(token.credentials)
    except jwt.InvalidTokenError as error:
        logging.getLogger(__name__).warning("token refused: %s", type(error).__name__)
        fault = "has expired" if isinstance(error, jwt.ExpiredSignatureError) else "is invalid"
        raise HTTPException(401, f"The token {fault}.", {"WWW-Authenticate": "Bearer"}) from None
    if user_id != user.id:
        raise HTTPException(403, "The token is another user's.")
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]
