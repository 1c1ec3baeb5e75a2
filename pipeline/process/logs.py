"""Logging without credentials, without commands to a terminal, and without tracebacks of our own errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from pipeline.process.terminal import safe
from schemas.core.credentials import secrets_of, without_secrets
from schemas.core.errors import ConfigError, DistillError


class _WithoutSecrets(logging.Formatter):
    """Removes credentials: libraries log addresses and headers as they send them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with its traceback, if there is one."""
        return safe(without_secrets(super().format(record), self.secrets))


class _WithoutTraceback(logging.Filter):
    """Drops tracebacks of our own errors, whose messages they would hide in Prefect's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], DistillError):
            record.exc_info = record.exc_text = None
        return True


def log_to_stderr(*, instead: bool = False) -> None:
    """Log warnings, or the level in DISTILL_LOG_LEVEL, to stderr.

    Args:
        instead: whether to replace the handlers that are set.

    Raises:
        ConfigError: DISTILL_LOG_LEVEL is not a level; warnings are logged all the same.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_WithoutSecrets(secrets_of(os.environ)))
    level = os.environ.get("DISTILL_LOG_LEVEL", "").upper() or "WARNING"
    known = logging.getLevelNamesMapping()
    logging.basicConfig(level=known.get(level, logging.WARNING), handlers=[handler], force=instead)
    if level not in known:
        names = ", ".join(known)
        raise ConfigError(f"DISTILL_LOG_LEVEL={level} is no level; give one of {names}")


def quiet_prefect() -> None:
    """Keep tracebacks of our own errors out of Prefect's log."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_WithoutTraceback())
