"""The tables, at the start: missing ones are made, and those that somebody else made must fit."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Table, create_engine, exc, func, inspect, select
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from backend import LOCK_TIMEOUT
from backend.db import wants_sign_up

START_LOCK = 0x70D0  # any number, as long as all services lock the same
# Nothing reads this column, and nothing sets it but its default.
LEFT_TO_DEFAULT = "users.created_at"
# For each type of our columns, the types of PostgreSQL that will do. One that is not named here is
# left to `try_statement`.
FITTING_TYPES = {
    "BIGINT": ("int8", "int4"),
    "BOOLEAN": ("bool",),
    "TIMESTAMP WITH TIME ZONE": ("timestamptz",),
    "VARCHAR": ("varchar", "text", "citext"),
}
COLUMNS = """
    SELECT
        column_name AS name,
        quote_ident(column_name) AS quoted_name,
        udt_name AS type,
        character_maximum_length AS length,
        is_nullable = 'NO' AS is_not_null,
        column_default IS NULL AND is_identity = 'NO' AND is_generated = 'NEVER' AS has_no_default
    FROM information_schema.columns
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = %(table)s
    ORDER BY ordinal_position
"""


def prepare_tables(
    parameters: dict[str, str], statements: list[str], trial: dict[str, Any]
) -> None:
    """Make the tables that are missing; try each statement on those that were there already.

    `parameters` are libpq's for the database, `trial` the values of the statements' parameters.
    Raise SystemExit if the database does not answer or its tables do not fit.
    """
    engine = create_engine("postgresql+psycopg2://", connect_args=parameters, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'")
            connection.execute(select(func.pg_advisory_xact_lock(START_LOCK)))
            has_table = inspect(connection).has_table
            is_new = not has_table("tasks") and not has_table("users")
            SQLModel.metadata.create_all(connection)
            for table in SQLModel.metadata.sorted_tables:
                check_columns(connection, table)
            if is_new:
                return  # Nothing can be wrong, and a trial would use up the first id.
            for statement in statements:
                try_statement(connection, statement, trial)
    except exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise SystemExit(f"The database cannot be used: {reason}") from None


def try_statement(connection: Connection, statement: str, trial: dict[str, Any]) -> None:
    """Run a statement and undo it, to learn at start of a missing right or a read-only server.

    It may fail for want of a user's row: in a table of Better Auth's, a sign-up makes it.
    """
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(statement, trial)
    except exc.IntegrityError as error:
        if not wants_sign_up(error.orig):
            raise
    finally:
        savepoint.rollback()


class Misfit(NamedTuple):
    """What is wrong with a column."""

    sentence: str
    action: str  # of the ALTER TABLE that mends it, or "" if there is none


def check_columns(connection: Connection, table: Table) -> None:
    """Raise SystemExit if a table that somebody else made has columns that do not fit.

    Its one line has the ALTER TABLE that mends the table, if there is one.
    """
    present = connection.exec_driver_sql(COLUMNS, {"table": table.name}).all()
    if not present:
        return  # A role without rights on the table sees no column. `try_statement` reports that.
    misfits: list[Misfit] = []
    for found in present:
        misfits += find_misfits(table, found, connection.dialect)
    names = [found.name for found in present]
    for column in table.columns:
        if column.name not in names and str(column) != LEFT_TO_DEFAULT:
            misfits.append(Misfit(f"{column.name} is missing", ""))
    if not misfits:
        return
    line = f"The table {table.name}: {', '.join(misfit.sentence for misfit in misfits)}."
    actions = [misfit.action for misfit in misfits]
    if all(actions):
        line += f" This mends it: ALTER TABLE {table.name} {', '.join(actions)};"
    raise SystemExit(line)


def find_misfits(table: Table, found: Any, dialect: Dialect) -> Iterator[Misfit]:
    """Yield what is wrong with a column.

    Columns of `users` may be required: a sign-up with Better Auth sets them.
    """
    name = found.quoted_name
    column: Any = table.columns.get(found.name)
    is_required = found.is_not_null and found.has_no_default
    not_required = Misfit(f"{name} must not be required", f"ALTER {name} DROP NOT NULL")
    if column is None:
        # Not a column of ours: it stays without a value.
        if is_required and table.name == "tasks":
            yield not_required
        return
    if str(column) == LEFT_TO_DEFAULT:
        if is_required:
            yield Misfit(f"{name} must have a default", f"ALTER {name} SET DEFAULT now()")
        return
    if column.nullable and found.is_not_null and table.name == "tasks":
        # The statements write NULL into it, so a default would not help.
        yield not_required
    wanted = column.type.compile(dialect)
    kind = wanted.partition("(")[0]  # VARCHAR of VARCHAR(200)
    if found.type in FITTING_TYPES.get(kind, (found.type,)):
        if found.length and found.length < (column.type.length or 0):
            yield Misfit(f"{name} must be {wanted}", f"ALTER {name} TYPE {wanted}")
    elif kind == "TIMESTAMP WITH TIME ZONE" and found.type == "timestamp":
        conversion = f"ALTER {name} TYPE {wanted} USING {name} AT TIME ZONE 'UTC'"
        yield Misfit(f"{name} must be {wanted}", conversion)
    else:
        yield Misfit(f"{name} must be {wanted}", "")
