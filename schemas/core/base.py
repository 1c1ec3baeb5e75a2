"""The base class of every schema, and the digest of a value."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, 64 lower-case hexadecimal digits")]


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Frozen(BaseModel):
    """An immutable value that refuses unknown keys; the docstring below a field is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def parse_kind(value: Any) -> Any:
    """Expand the short form of a mapping with nothing but its kind: `pairs` for `{kind: pairs}`."""
    return {"kind": value} if isinstance(value, str) else value
