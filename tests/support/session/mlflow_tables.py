"""The tables of a new MLflow database, made by MLflow's migrations once in a test session and copied afterwards.

Forty migrations take longer than most tests that need a store. Programs that tests start run them as a user does.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock


def copy_tables(template: Path) -> None:
    """Have MLflow copy the tables of a new SQLite database from a file, once MLflow has been imported.

    Args:
        template: the file, which the first new database of the session makes.
    """
    utils = sys.modules.get("mlflow.store.db.utils")
    if utils is None or hasattr(utils, "_migrated"):
        return
    migrate = utils._migrated = utils._initialize_tables

    def initialize(engine: Any) -> None:
        file = engine.url.database if engine.url.get_backend_name() == "sqlite" else None
        if not file or file == ":memory:":
            migrate(engine)
            return
        with FileLock(template.with_suffix(".lock")):
            if not template.exists():
                migrate(engine)
                _copy(file, template.with_suffix(".new"))
                os.replace(template.with_suffix(".new"), template)
                return
        engine.dispose()
        _copy(template, file)

    utils._initialize_tables = initialize


def _copy(source: Path | str, target: Path | str) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
