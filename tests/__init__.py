"""Replaces the environment's settings, and the service by a copy without a .env.local beside it."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = Path(tempfile.mkdtemp(prefix="todo-"))
SECRET = "a secret of the tests, of more than 64 bytes, which is what HS512 wants"
FRONTEND = "http://localhost:3000"


def environment_of_service(**settings: str) -> dict[str, str]:
    """Return this process's environment with these settings of the service and no others.

    What libpq and HTTP clients read there, for another database or a proxy, is left out, too.
    """
    own = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": FRONTEND}
    kept = {name: value for name, value in os.environ.items() if not is_for_others(name)}
    return kept | own | settings


def is_for_others(name: str) -> bool:
    prefixes = ("BETTER_AUTH_", "DATABASE_", "NEON_DATABASE_", "PG")
    return name.startswith(prefixes) or name.lower().endswith("_proxy")


for file in (ROOT / "backend").rglob("*.py"):  # without its mode: the clone may be read-only
    copied = COPY / file.relative_to(ROOT)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copied)
atexit.register(shutil.rmtree, COPY, ignore_errors=True)
sys.path.insert(0, str(COPY))
environment = environment_of_service(DATABASE_URL="embedded")
os.environ.clear()
os.environ.update(environment)
