"""A process that uses an embedded PostgreSQL as the service does: `python user.py FOLDER`.

It prints libpq's parameters. For each line of its input it forks a child that ends at once.
"""

import json
import os
import sys
from pathlib import Path

from backend import embedded

print(json.dumps(embedded.start(Path(sys.argv[1]))), flush=True)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    print("forked", flush=True)
