"""A member of a run in a process of its own: `python -m pipeline.member REQUEST ANSWER`, or a task of a Ray cluster.

Both files are JSON (`pipeline.engines.request`). The process ends when its standard input does, with the process that
started it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from pipeline.engines.request import MemberAnswer, MemberRequest, answer_of
from pipeline.planning.options import RunOptions
from pipeline.process.logs import log_to_stderr
from pipeline.process.prefect_api import prepare_environment
from schemas.recipe.recipe import Recipe


def run_member(request: str) -> str:
    """Run a member in this process; takes a request and returns an answer, both as JSON."""
    prepare_environment()
    from pipeline.flow import execute_member

    asked = MemberRequest.model_validate_json(request)
    try:
        result = execute_member(
            Recipe.model_validate(asked.recipe), RunOptions.model_validate(asked.options), asked.member
        )
    except (Exception, KeyboardInterrupt) as error:
        return answer_of(error).model_dump_json()
    answer = MemberAnswer(rows=result) if isinstance(result, tuple) else MemberAnswer(report=result)
    return answer.model_dump_json()


def _end_with_standard_input() -> None:
    def wait() -> None:
        while sys.stdin.read(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _main(asked: str, answer: str) -> None:
    log_to_stderr()
    _end_with_standard_input()
    text = run_member(Path(asked).read_text(encoding="utf-8"))
    beside = Path(f"{answer}.part")
    beside.write_text(text, encoding="utf-8")
    beside.rename(answer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)
