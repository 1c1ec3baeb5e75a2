"""Kept evaluations: a judgement a file, sealed and under its own digest, so that none is believed unread."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.store import files
from schemas.core.base import Frozen, Sha256, digest_of
from schemas.core.regular_files import read_regular
from schemas.results.manifest import Judgement

log = logging.getLogger(__name__)


class KeptJudgement(Frozen):
    """What the file of an evaluation holds."""

    digest: Sha256
    """Of what was judged, and with what."""
    sha256: Sha256
    """Of the digest and the judgement."""
    judgement: Judgement
    """The scores."""


def read_judgement(path: Path, digest: str) -> Judgement | None:
    """The evaluation kept in `path`; None where there is none, or it is not the one that was written.

    Files of versions that sealed none are evaluated again: nothing tells whether they are as they were.
    """
    try:
        content = json.loads(read_regular(path))
        kept = KeptJudgement.model_validate(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        log.warning("%s cannot be read, or has no seal; evaluating again", path)
        return None
    if kept.sha256 != _sha256(digest, content["judgement"]):
        log.warning("%s is not as it was written, or of another model; evaluating again", path)
        return None
    return kept.judgement


def write_judgement(path: Path, digest: str, judgement: Judgement) -> None:
    """Keep an evaluation under its digest; raises StoreError when it cannot."""
    sha256 = _sha256(digest, judgement.model_dump(mode="json"))
    files.write_json(path, KeptJudgement(digest=digest, sha256=sha256, judgement=judgement))


def _sha256(digest: str, judgement: Any) -> str:
    # Of the values as they stand in the file, so that a field that a later version adds changes nothing.
    return digest_of({"digest": digest, "judgement": judgement})
