"""A store that was moved, or copied, takes its MLflow along: the paths in its own database lead to where it is now.

MLflow keeps the place of every run's artifacts as an absolute path. Nothing else in a store depends on where it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.tracking.client import CHECKPOINT_TAG, one_at_a_time, sqlite_file

# Where MLflow 3 keeps paths of artifacts; and our own tag.
_PATHS = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("tags", "value", f"AND key = '{CHECKPOINT_TAG}'"),
)
_WAIT_SECONDS = 60.0


def was_moved(uri: str, artifacts: Path | None) -> bool:
    """Whether a store's own database leads to where the store was before; reads only."""
    database = _own_database(uri, artifacts)
    if database is None or artifacts is None:
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return any(_places_before(connection, artifacts))
    except sqlite3.Error:
        return False


def lead_to_store(uri: str, artifacts: Path | None) -> None:
    """Change the paths in a store's own database that lead to where the store was before.

    Args:
        uri: MLflow's address; nothing is done where it is not a SQLite file of the store.
        artifacts: the store's folder of artifacts.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    database = _own_database(uri, artifacts)
    if database is None or artifacts is None or not was_moved(uri, artifacts):
        return
    with one_at_a_time(uri), closing(sqlite3.connect(database, timeout=_WAIT_SECONDS)) as connection, connection:
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for before in set(_places_before(connection, artifacts)):
            for table, column, where in _PATHS:
                if table in known:
                    _replace(connection, table, column, where, before, artifacts.parent)


def _own_database(uri: str, artifacts: Path | None) -> Path | None:
    database = sqlite_file(uri)
    if database is None or artifacts is None or database.parent != artifacts.parent:
        return None
    return database if database.is_file() else None


def _places_before(connection: sqlite3.Connection, artifacts: Path) -> Iterator[Path]:
    """Where the store has been: the folders above our experiments' artifacts, this one by another name left out."""
    here = artifacts.parent
    for (location,) in connection.execute("SELECT artifact_location FROM experiments"):
        path = Path(unquote(urlsplit(str(location)).path))
        if path.name == artifacts.name and path != artifacts and path.parent.resolve() != here.resolve():
            yield path.parent


def _replace(connection: sqlite3.Connection, table: str, column: str, where: str, before: Path, now: Path) -> None:
    for old, new in ((before.as_uri(), now.as_uri()), (str(before), str(now))):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ? {where}",
            (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
        )
