"""The todo backend. Importing it loads .env.local, then .env; what the real environment says stays."""

import os
from pathlib import Path

from dotenv import load_dotenv

ROOT = Path(__file__).resolve().parent.parent
for file in (".env.local", ".env"):
    # Whoever names a database gets that one: a DATABASE_URL outranks the NEON_DATABASE_URL of a later source.
    if url := os.environ.get("DATABASE_URL"):
        os.environ.setdefault("NEON_DATABASE_URL", url)
    load_dotenv(ROOT / file)
