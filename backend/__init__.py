"""The todo backend. Importing it loads .env.local, then .env; what the real environment says stays."""

import os
import sys
from multiprocessing import parent_process
from pathlib import Path
from typing import NoReturn

from dotenv import load_dotenv

ROOT = Path(__file__).resolve().parent.parent
for file in (".env.local", ".env"):
    # Whoever names a database gets that one: a DATABASE_URL outranks the NEON_DATABASE_URL of a later source.
    if url := os.environ.get("DATABASE_URL"):
        os.environ.setdefault("NEON_DATABASE_URL", url)
    load_dotenv(ROOT / file)


def refuse_to_start(reason: str) -> NoReturn:
    """Print one line and exit with status 1, or 3 in a worker, which uvicorn then does not start again."""
    print(reason, file=sys.stderr)
    sys.exit(3 if parent_process() else 1)
