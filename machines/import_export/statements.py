"""Write many rows in few statements. All values are computed before the database is locked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection, models


class Statements:
    """A list of inserts, updates and deletes, to be run in order."""

    def __init__(self) -> None:
        self._all: list[tuple[str, list[tuple[Any, ...]]]] = []

    def insert(self, instances: Iterable[models.Model]) -> None:
        """Insert new instances of one model. The database numbers those without a primary key."""
        rows = list(instances)
        if not rows:
            return
        fields = [field for field in rows[0]._meta.concrete_fields if not field.primary_key or rows[0].pk is not None]
        columns = ", ".join(_quoted(str(field.column)) for field in fields)
        places = ", ".join(["%s"] * len(fields))
        statement = f"INSERT INTO {_table(rows[0])} ({columns}) VALUES ({places})"  # noqa: S608 - names of ours
        self._all.append((statement, [_values(row, fields, add=True) for row in rows]))

    def update(self, instances: Sequence[models.Model], names: Iterable[str]) -> None:
        """Update these fields of stored instances of one model."""
        if not instances:
            return
        options = instances[0]._meta
        fields: list[Any] = [*(options.get_field(name) for name in names), options.pk]
        columns = ", ".join(f"{_quoted(field.column)} = %s" for field in fields[:-1])
        statement = f"UPDATE {_table(instances[0])} SET {columns} WHERE {_quoted(fields[-1].column)} = %s"  # noqa: S608
        self._all.append((statement, [_values(row, fields, add=False) for row in instances]))

    def delete(self, model: type[models.Model], name: str, values: Iterable[Any]) -> None:
        """Delete the rows whose field `name` has one of the values. No other row may refer to them."""
        field: Any = model._meta.get_field(name)
        statement = f"DELETE FROM {_table(model)} WHERE {_quoted(field.column)} = %s"  # noqa: S608 - names of ours
        self._all.append((statement, [(field.get_db_prep_value(value, connection),) for value in values]))

    def run(self) -> None:
        """Run all statements. Call it in a transaction. Raises IntegrityError."""
        with connection.cursor() as cursor:
            for statement, rows in self._all:
                if rows:
                    cursor.executemany(statement, rows)


def next_numbers(model: type[models.Model], number: int) -> list[int]:
    """Return the primary keys for the next rows of a table.

    PostgreSQL reserves them. On SQLite, a row that is added meanwhile uses one of them. Then `run` raises
    IntegrityError.
    """
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = %s", [table])
            last = cursor.fetchone()[0]
            return list(range(last + 1, last + 1 + number))
        serial = "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)"
        cursor.execute(serial, [_quoted(table), "id", number])
        return [row[0] for row in cursor.fetchall()]


def _values(row: models.Model, fields: Iterable[Any], *, add: bool) -> tuple[Any, ...]:
    return tuple(field.get_db_prep_save(field.pre_save(row, add), connection) for field in fields)


def _table(model: models.Model | type[models.Model]) -> str:
    return _quoted(model._meta.db_table)


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)
