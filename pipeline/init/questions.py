"""Questions on a terminal, each with a proposal; elsewhere, and with --yes, the proposals are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.text import Text

from pipeline.process.terminal import safe
from schemas.core.errors import ConfigError, DataError, ServiceError

Answer = TypeVar("Answer")


class _Prompt(Prompt):
    prompt_suffix = " "


class _Confirm(Confirm):
    prompt_suffix = " "


@contextmanager
def _end_as_stop() -> Iterator[None]:
    """Treat the end of the input, Ctrl-D, as Ctrl-C."""
    try:
        yield
    except EOFError:
        raise KeyboardInterrupt from None


class Questions:
    """Asks, if anybody is there to answer.

    Args:
        console: of the terminal.
        are_asked: whether somebody answers.
    """

    def __init__(self, console: Console, *, are_asked: bool) -> None:
        self.console, self.are_asked = console, are_asked

    def text(self, question: str, proposal: str = "") -> str:
        """Return an answer; the proposal if nobody answers, or only Enter is pressed."""
        if not self.are_asked:
            return proposal
        while True:
            prompt = Text(question, "bold")
            with _end_as_stop():
                answer = _Prompt.ask(prompt, console=self.console, default=proposal, show_default=bool(proposal))
            if answer or not question.endswith("?"):
                return answer.strip()

    def agrees(self, question: str, *, proposal: bool = True) -> bool:
        """Return whether the answer is yes."""
        if not self.are_asked:
            return proposal
        with _end_as_stop():
            return _Confirm.ask(Text(question, "bold"), console=self.console, default=proposal)

    def tried(self, question: str, given: str | None, proposal: str, use: Callable[[str], Answer]) -> Answer:
        """Return what `use` makes of an option's value or of an answer; asks again as long as it refuses an answer.

        Raises:
            ConfigError: `use` refuses, and nobody can be asked.
            DataError: as ConfigError.
            ServiceError: as ConfigError.
        """
        while True:
            answer = given if given is not None else self.text(question, proposal)
            try:
                return use(answer)
            except (ConfigError, DataError, ServiceError) as error:
                if not self.are_asked:
                    raise
                for line in error.problems if isinstance(error, ConfigError) else (str(error),):
                    self.console.print(Text(safe(line), "red"))
                given = None
