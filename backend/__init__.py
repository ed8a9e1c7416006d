"""The backend of the Evolution of Todo; importing it loads .env.local, then .env, below the real environment."""

import os
import sys
from multiprocessing import parent_process
from pathlib import Path
from typing import NoReturn

from dotenv import load_dotenv

ROOT = Path(__file__).resolve().parent.parent

for file in (".env.local", ".env"):
    # Whoever names a database gets that one: a DATABASE_URL outranks a NEON_DATABASE_URL of a later source.
    if "NEON_DATABASE_URL" not in os.environ and os.environ.get("DATABASE_URL"):
        os.environ["NEON_DATABASE_URL"] = os.environ["DATABASE_URL"]
    load_dotenv(ROOT / file)


def refuse_to_start(reason: str) -> NoReturn:
    """End the process with one line on standard error and exit status 1.

    In a worker the status is 3, which tells uvicorn's parent process not to start it again.
    """
    print(reason, file=sys.stderr)
    sys.exit(3 if parent_process() else 1)
