"""Uses an embedded PostgreSQL as the service does, until its input ends: `python user.py FOLDER`.

It prints libpq's parameters.
"""

import json
import sys
from pathlib import Path

from backend import embedded

print(json.dumps(embedded.start(Path(sys.argv[1]))), flush=True)
sys.stdin.read()
