"""Pages of the documentation, and the commands, programs and recipes that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docker" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MEASUREMENTS = {ROOT / "docs" / f"{name}.md" for name in ("methods", "performance", "results")}
"""Pages whose commands run for minutes to days; they are read, not executed."""


def title(page: Path) -> str:
    """Path of a page in the project."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    parsed: str | None
    """Reason of a mark `<!-- parsed: REASON -->` above it: it is not executed here; None if it is."""


def blocks(page: Path, *languages: str) -> list[Block]:
    """Blocks of a page in these languages."""
    pattern = re.compile(r"(?:<!-- parsed: (.*?) -->\n\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    found = pattern.finditer(page.read_text("utf-8"))
    return [Block(page, match[2], match[3], match[1]) for match in found if match[2] in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """Words of each simple command of a shell block, without variables before it, redirections and what it is fed."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = [*lexer, ";"]
        while tokens:
            token = tokens.pop(0)
            if token[0] in "<>":
                tokens.pop(0)
            elif token[0] in "|&;":
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(token)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and the site name them."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,4} (.*)$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found
