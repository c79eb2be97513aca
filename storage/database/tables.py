"""Tables are made where there are none, and two drivers may do so at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

Made = TypeVar("Made")

# Each time, another driver has made at least one more of them.
_TRIES = 20


def make_tables(make: Callable[[], Made]) -> Made:
    """Run what makes the tables that are not there; again, where somebody else has just made one of them.

    Raises:
        SQLAlchemyError: For any other reason.
    """
    for _ in range(_TRIES):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not _is_made_already(error):
                raise
    return make()


def _is_made_already(error: IntegrityError | OperationalError | ProgrammingError) -> bool:
    # A table's version is a row, and PostgreSQL's names of tables are rows, too.
    return isinstance(error, IntegrityError) or "already exists" in str(error.orig)
