"""Kept evaluations: one sealed file per judgement, named by its digest."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.store.files import write_file
from schemas.core.base import Frozen, Sha256, digest_of
from schemas.core.regular_files import read_regular
from schemas.results.manifest import Judgement

log = logging.getLogger(__name__)


class KeptJudgement(Frozen):
    """Content of an evaluation's file."""

    digest: Sha256
    """Digest of the model that was judged and of the yardstick."""
    sha256: Sha256
    """SHA-256 of digest and judgement."""
    judgement: Judgement
    """The scores."""


def read_judgement(path: Path, digest: str) -> Judgement | None:
    """The evaluation kept in `path`; None where there is none, or it has changed since it was written.

    Files of versions without a seal are evaluated again, since nothing tells whether they have changed.
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
        log.warning("%s has changed since it was written, or is of another model; evaluating again", path)
        return None
    return kept.judgement


def write_judgement(path: Path, digest: str, judgement: Judgement) -> None:
    """Keep an evaluation under its digest; raises StoreError when the file system refuses."""
    sha256 = _sha256(digest, judgement.model_dump(mode="json"))
    kept = KeptJudgement(digest=digest, sha256=sha256, judgement=judgement)
    write_file(path, (kept.model_dump_json(indent=1) + "\n").encode("utf-8"))


def _sha256(digest: str, judgement: Any) -> str:
    # Of the values in the file, so that a field added by a later version changes nothing.
    return digest_of({"digest": digest, "judgement": judgement})
