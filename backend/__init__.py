"""The todo backend: the times that must fit together, and the one error of its own."""

# Seconds. An answer is due within 5, so all that a request waits for shares one deadline.
DEADLINE = 4.5  # The signing keys, a free connection and the statement together.
KEYS_TIMEOUT = 3.0  # Reading the signing keys. It leaves 1.5 for the database.
ADDRESS_TIMEOUT = 1.5  # For each address of the database's host but the last one.
STATEMENT_MARGIN = 0.25  # PostgreSQL ends a statement at least this much before the deadline.
# Seconds. A start that would wait for longer fails, with one line.
CONNECT_TIMEOUT = 4
LOCK_TIMEOUT = 7  # Waiting for another start to end, and as long again for a lock on a table.


class UnavailableError(Exception):
    """The database or the signing keys do not answer now; trying again may help."""
