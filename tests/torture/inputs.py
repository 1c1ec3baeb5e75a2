"""Thousands of damaged recipes, overrides and data files: loaded, or refused with one message in bounded time."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.command_line import main
from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.errors import ConfigError, DataError
from schemas.data.corpus import FileText, GeneralCorpus
from schemas.data.tasks import TaskData
from schemas.loading.dump import dump_recipe
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task
from tests.support.toys import toy_recipe_dict
from tests.torture.damage import ROWS, Damaged, changes, damaged_files, damaged_recipes, written

LONGEST_SECONDS = 10.0
MOST_BYTES = 1 << 30
MOST_CHARACTERS = 4000
"""Length of the longest message; longer ones quote whole inputs."""


@dataclass
class Inputs:
    """Result of a campaign."""

    loaded: int = 0
    refused: int = 0
    slowest: float = 0.0
    """Seconds."""
    grown: int = 0
    """Largest growth of the process in bytes."""
    commands: int = 0
    """Cases that also went through the command line."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Number of cases by kind."""
    losses: list[str] = field(default_factory=list)
    """Anything but a value or a refusal in one message, and anything slow or large."""

    def __str__(self) -> str:
        return (
            f"{self.loaded + self.refused} inputs: {self.loaded} loaded, {self.refused} refused, slowest "
            f"{self.slowest:.1f} s, at most {self.grown / 2**20:.0f} MiB more"
        )

    def try_one(self, name: str, load: Callable[[], Any], most_bytes: int | None = None) -> tuple[bool, list[str]]:
        """Load an input; return whether it was refused, and all problems."""
        problems, refused = [], False
        with self._measured(problems, most_bytes):
            try:
                load()
                self.loaded += 1
            except (ConfigError, DataError) as error:
                self.refused += 1
                refused = True
                problems += _complaints(error)
            except Exception as error:
                problems.append(f"{type(error).__name__}: {str(error)[:300]}")
        self.losses += [f"{name}: {problem}" for problem in problems]
        return refused, problems

    def command(self, name: str, *arguments: str, codes: tuple[int, ...]) -> list[str]:
        """Run the command line in this process; return problems, such as an exit code not in `codes`."""
        problems: list[str] = []
        self.commands += 1
        with self._measured(problems):
            code, output = _distill(*arguments)
        if code not in codes:
            problems.append(f"distill {arguments[0]}: exit code {code}: {output[-300:]}")
        if "Traceback" in output or (code == 2 and not re.search(r"error: |Error", output)):
            problems.append(f"distill {arguments[0]}: no clean message: {output[-300:]}")
        self.losses += [f"{name}: {problem}" for problem in problems]
        return problems

    @contextlib.contextmanager
    def _measured(self, problems: list[str], most_bytes: int | None = None) -> Iterator[None]:
        before, began = _memory("VmRSS"), time.perf_counter()
        # Reset the kernel's peak, so that it measures this case.
        Path("/proc/self/clear_refs").write_text("5")
        yield
        elapsed, grown = time.perf_counter() - began, _memory("VmHWM") - before
        self.slowest, self.grown = max(self.slowest, elapsed), max(self.grown, grown)
        if elapsed > LONGEST_SECONDS or grown > (most_bytes or MOST_BYTES):
            problems.append(f"{elapsed:.1f} s, {grown / 2**20:.0f} MiB")


def _memory(which: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"^{which}:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def _complaints(error: ConfigError | DataError) -> list[str]:
    """Return the errors of a refusal, which needs one message per problem with a location and a remedy."""
    lines = error.problems if isinstance(error, ConfigError) else (str(error),)
    problems = []
    for line in lines:
        if not line.strip() or "Traceback" in line or not line.isprintable():
            problems.append(f"no clean message: {line[:300]!r}")
        elif len(line) > MOST_CHARACTERS:
            problems.append(f"a message of {len(line):,} characters: {line[:100]}")
        elif not re.match(r"--set |and more|.*?(task|data|general_corpus|recipe|RECIPE)", line):
            problems.append(f"no place in: {line[:300]}")
        elif isinstance(error, DataError) and not re.search(r"[;:(] ?|must", line.split(": ", 1)[-1]):
            problems.append(f"no remedy in: {line[:300]}")
    return problems or ([] if lines else ["refused without a message"])


def _distill(*arguments: str) -> tuple[int, str]:
    """Return exit code and output of the command line."""
    output = io.StringIO()
    with (
        patch.object(sys, "argv", ["distill", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        except Exception as error:
            code = 1
            output.write(f"Traceback: {type(error).__name__}: {error}")
    return int(code), output.getvalue()


Check = Callable[[Inputs, Any, bool], list[str]]


class _Lost(Exception):
    """Raised when a case was neither loaded nor refused correctly."""


def drive(strategy: st.SearchStrategy[Any], check: Check, cases: int, seed: int, commands: int) -> Inputs:
    """Check the cases, some of them also through the command line, and shrink the first failure."""
    tally = _checked(strategy, check, cases, seed, commands)
    if tally.losses:
        smallest: list[Any] = []
        with contextlib.suppress(_Lost, hypothesis.errors.Flaky):
            _checked(strategy, check, cases, seed, commands, smallest)
        tally.losses.append(f"the smallest of them: {smallest[-1:]!r}")
    return tally


def _checked(
    strategy: st.SearchStrategy[Any],
    check: Check,
    cases: int,
    seed: int,
    commands: int,
    failing: list[Any] | None = None,
) -> Inputs:
    """Check the cases of the seed; with a list, stop at the first failure and shrink it in the list."""
    tally, count = Inputs(), 0
    every = max(1, cases // commands) if commands else cases + 1

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(strategy)
    def check_case(case: Any) -> None:
        nonlocal count
        count += 1
        if check(tally, case, count % every == 0) and failing is not None:
            failing.append(case)
            raise _Lost

    check_case()
    return tally


def recipe_campaign(folder: Path, *, cases: int, seed: int = 0, commands: int = 10) -> Inputs:
    """Load damaged copies of the shipped recipes, some of them also through the command line."""
    file = folder / "recipe.yaml"
    texts = [dump_recipe(read_recipe(name)) for name in shipped_names()]

    def check(tally: Inputs, case: Damaged, as_command: bool) -> list[str]:
        tally.kinds[case.kind] += 1
        file.write_bytes(case.content)
        refused, problems = tally.try_one(repr(case), lambda: read_recipe(str(file)))
        if as_command:
            verb = ("plan", "--store", str(folder / "store")) if refused else ("show",)
            code = 2 if refused else 0
            problems += tally.command(repr(case), *verb[:1], str(file), *verb[1:], codes=(code,))
        return problems

    canary = folder / "canary"
    result = drive(damaged_recipes(lambda: texts, str(canary)), check, cases, seed, commands)
    return _not_executed(result, canary)


def override_campaign(folder: Path, *, cases: int, seed: int = 0, commands: int = 10) -> Inputs:
    """Load a recipe with valid and invalid overrides."""
    file = folder / "recipe.yaml"
    text = dump_recipe(read_recipe("tinybert"))
    file.write_text(text, encoding="utf-8")

    def check(tally: Inputs, case: list[str], as_command: bool) -> list[str]:
        name = f"--set {str(case)[:200]}"
        tally.kinds[f"{len(case)} at once"] += 1
        refused, problems = tally.try_one(name, lambda: read_recipe(str(file), case))
        if as_command:
            verb = "plan" if refused else "show"
            words = [word for change in case for word in ("--set", change)]
            problems += tally.command(name, verb, str(file), *words, codes=(2 if refused else 0,))
        return problems

    canary = folder / "canary"
    document = yaml.safe_load(text)
    strategy = changes(lambda: document, str(canary))
    return _not_executed(drive(strategy, check, cases, seed, commands), canary)


def file_campaign(folder: Path, *, cases: int, seed: int = 0, commands: int = 10) -> Inputs:
    """Load damaged data files as rows of a task, as a task folder, and as a general corpus."""
    canary, toy = folder / "canary", folder / "toy.yaml"
    toy.write_text(yaml.safe_dump(toy_recipe_dict(folder / "toy")), encoding="utf-8")

    def check(tally: Inputs, case: Damaged, as_command: bool) -> list[str]:
        tally.kinds[case.kind] += 1
        case_folder = folder / f"case {tally.kinds.total()}"
        case_folder.mkdir()
        # A script named like the folder, which older versions of datasets would have executed.
        (case_folder / f"{case_folder.name}.py").write_text(f"open({str(canary)!r}, 'w')\n", encoding="utf-8")
        (case_folder / case.name).write_bytes(case.content)
        (case_folder / "validation.jsonl").write_bytes(written(ROWS, ".jsonl"))
        try:
            return _each_way(tally, case, case_folder, folder / "cache", toy if as_command else None)
        finally:
            shutil.rmtree(case_folder)

    result = drive(damaged_files(str(canary)), check, cases, seed, commands)
    return _not_executed(result, canary)


def _each_way(tally: Inputs, case: Damaged, folder: Path, cache: Path, toy: Path | None) -> list[str]:
    """Load the file as a task folder, a task or a corpus; with a recipe, also through the command line."""
    file, way = folder / case.name, len(case.content) % 3
    if ".txt" in case.name or way == 0:
        source = {"kind": "files", "paths": [str(file)], "column": "text_a"}
        corpus = GeneralCorpus(sources=(FileText.model_validate(source),), held_out_rows=5)
        refused, problems = tally.try_one(repr(case), lambda: load_corpus(corpus, cache))
        changed = f"general_corpus.sources={json.dumps([source])}"
    else:
        content: Any = str(folder)
        if way == 1 or ".jsonl" not in case.name:
            content = {"kind": "files", "train": str(file), "validation": f"{folder}/validation.jsonl"}
        else:
            file.rename(folder / case.name.replace("case", "train"))
        if ".conll" in case.name:
            content |= {"problem": "token_classification", "validation": str(file)}
        task: TaskData = TypeAdapter(TaskData).validate_python(content)
        refused, problems = tally.try_one(repr(case), lambda: load_task(task, cache))
        changed = f"task={json.dumps(content)}"
    if toy is not None:
        words = ("plan", str(toy), "--set", changed, "--store", str(folder / "store"))
        problems += tally.command(repr(case), *words, codes=(2,) if refused else (0, 2))
    return problems


def _not_executed(tally: Inputs, canary: Path) -> Inputs:
    """Check that the canary does not exist, which means that no input was executed."""
    if canary.exists():
        tally.losses.append("an input was executed")
    return tally
