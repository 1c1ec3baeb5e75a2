"""Imports go one way: schemas <- stages <- pipeline, and between the rooms of each as `ALLOWED` says."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.modules import LAYERS, modules
from tests.support.paths import ROOT

HEAVY = {"torch", "transformers", "datasets", "accelerate", "prefect", "mlflow", "numpy"}
FORBIDDEN = {
    "schemas": {"stages", "pipeline", "tests", "benchmarks"} | HEAVY,
    "stages": {"pipeline", "prefect", "mlflow", "tests", "benchmarks"},
    "pipeline": {"tests", "benchmarks"},
}
"""Top-level packages that a layer may not import."""

_ROWS = {"stages.storage", "stages.data.files", "stages.data.readers"}
_TASKS = {"stages.data.batching", "stages.data.tasks", "stages.kinds"}

ALLOWED: dict[str, set[str]] = {
    "schemas": set(),
    "schemas.core": set(),
    "schemas.data": {"schemas.core"},
    "schemas.recipe": {"schemas.core", "schemas.data"},
    "schemas.results": {"schemas.core", "schemas.data", "schemas.recipe"},
    "schemas.loading": {"schemas.core", "schemas.data", "schemas.recipe"},
    "stages.ports": {"stages.storage"},
    "stages.storage": set(),
    "stages.device": set(),
    "stages.text": set(),
    "stages.losses": set(),
    "stages.data": set(),
    "stages.data.files": set(),
    "stages.data.formats": {"stages.storage", "stages.data.files", "stages.text"},
    "stages.data.readers": {"stages.storage", "stages.data.files", "stages.data.formats"},
    "stages.data.columns": {"stages.data.readers"},
    "stages.data.batching": {"stages.storage"},
    "stages.data.tasks": _ROWS
    | {"stages.text", "stages.data.formats", "stages.data.columns", "stages.data.batching", "stages.kinds"},
    "stages.data.corpus": _ROWS | _TASKS | {"stages.text"},
    "stages.models": {"stages.storage", "stages.device", "stages.data.batching"},
    "stages.models.extraction": {"stages.models", "stages.data.batching"},
    "stages.models.starts": set(),
    "stages.scores": {"stages.data.readers"},
    "stages.kinds": {"stages.text", "stages.losses", "stages.models", "stages.scores"}
    | {"stages.data.readers", "stages.data.columns", "stages.data.batching"},
    "stages.objective": {"stages.losses", "stages.models", "stages.models.starts", "stages.kinds"}
    | {"stages.data.batching"},
    "stages.augmentation": {"stages.data.batching", "stages.kinds"}
    | {"stages.storage", "stages.device", "stages.text", "stages.ports"}
    | {"stages.data.files", "stages.models"},
    "stages.evaluation": _TASKS | {"stages.device", "stages.models", "stages.objective", "stages.scores"},
    "stages.training": _TASKS
    | {"stages.storage", "stages.device", "stages.ports", "stages.losses", "stages.models", "stages.objective"}
    | {"stages.evaluation"},
    "stages": _TASKS
    | {"stages.storage", "stages.device", "stages.ports", "stages.data.readers", "stages.data.corpus"}
    | {"stages.models", "stages.models.extraction", "stages.models.starts", "stages.objective"}
    | {"stages.augmentation", "stages.evaluation", "stages.training"},
    "stages.export": {"stages.data.batching", "stages.kinds", "stages.models", "stages.evaluation"},
    "stages.predictions": {"stages.data.batching", "stages.data.columns", "stages.device", "stages.export"}
    | {"stages.kinds", "stages.models"},
    "stages.preflight": _TASKS
    | {"stages", "stages.storage", "stages.device", "stages.text"}
    | {"stages.data.corpus", "stages.models", "stages.models.extraction"}
    | {"stages.objective", "stages.training"},
    "pipeline.process": set(),
    "pipeline.recipes": set(),
    "pipeline.store": set(),
    "pipeline.tracking": {"pipeline.process", "pipeline.store"},
    "pipeline.reporting": {"pipeline.process", "pipeline.store", "pipeline.tracking"},
    "pipeline.planning": {
        "pipeline.engines",
        "pipeline.process",
        "pipeline.pools",
        "pipeline.recipes",
        "pipeline.store",
        "pipeline.reporting",
    },
    "pipeline.engines": {"pipeline.process"},
    "pipeline.processes": {"pipeline.process", "pipeline.store"},
    "pipeline.pools": {"pipeline.process"},
    "pipeline.progress": {"pipeline.process", "pipeline.reporting"},
    "pipeline.shipping": {"pipeline.reporting", "pipeline.export", "pipeline.latency"},
    "pipeline.execution": {
        "pipeline.engines",
        "pipeline.process",
        "pipeline.store",
        "pipeline.tracking",
        "pipeline.reporting",
        "pipeline.planning",
        "pipeline.pools",
        "pipeline.processes",
        "pipeline.progress",
        "pipeline.registry",
        "pipeline.shipping",
    },
    "pipeline.runs": {"pipeline.process", "pipeline.store", "pipeline.tracking", "pipeline.reporting"},
    "pipeline.export": {"pipeline.process", "pipeline.recipes", "pipeline.store", "pipeline.reporting"},
    "pipeline.predict": {"pipeline.process", "pipeline.store", "pipeline.export"},
    "pipeline.latency": {"pipeline.process", "pipeline.store", "pipeline.reporting", "pipeline.export"},
    "pipeline.registry": {
        "pipeline.process",
        "pipeline.recipes",
        "pipeline.store",
        "pipeline.tracking",
        "pipeline.reporting",
        "pipeline.export",
    },
    "pipeline.init": {
        "pipeline.process",
        "pipeline.recipes",
        "pipeline.store",
        "pipeline.reporting",
        "pipeline.planning",
    },
    "pipeline.html": {
        "pipeline.process",
        "pipeline.store",
        "pipeline.tracking",
        "pipeline.reporting",
        "pipeline.export",
        "pipeline.shipping",
    },
    "pipeline": {
        "pipeline.engines",
        "pipeline.process",
        "pipeline.pools",
        "pipeline.recipes",
        "pipeline.store",
        "pipeline.tracking",
        "pipeline.reporting",
        "pipeline.planning",
        "pipeline.processes",
        "pipeline.progress",
        "pipeline.execution",
        "pipeline.export",
        "pipeline.latency",
        "pipeline.predict",
        "pipeline.registry",
        "pipeline.html",
        "pipeline.init",
        "pipeline.runs",
    },
}
"""Rooms (folders) that the modules of a room may import, besides their own and those of lower layers."""

MOST_FILES = 15


def imported(path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Yield line and target of every import anywhere in the file; the target is a module if it is one of `known`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative imports are not used here"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield node.lineno, full if full in known else str(node.module)


def room_of(module: str, known: dict[str, Path]) -> str:
    """Return the folder of a module."""
    return module if known[module].name == "__init__.py" else module.rpartition(".")[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_imports_one_above_it(layer: str) -> None:
    known = modules()
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {target}"
        for module, path in known.items()
        if module.partition(".")[0] == layer
        for line, target in imported(path, known)
        if target.partition(".")[0] in FORBIDDEN[layer]
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_import_what_their_table_allows_and_nothing_else() -> None:
    known = modules()
    used: dict[str, set[str]] = {room: set() for room in ALLOWED}
    wrong = []
    for module, path in known.items():
        room = room_of(module, known)
        for line, target in imported(path, known):
            if target not in known or target.partition(".")[0] != room.partition(".")[0]:
                continue
            imported_room = room_of(target, known)
            if imported_room != room and imported_room not in ALLOWED.get(room, set()):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {target}")
            elif imported_room != room:
                used[room].add(imported_room)
    assert not wrong, "\n".join(wrong)
    unused = {room: ALLOWED[room] - used[room] for room in ALLOWED if ALLOWED[room] - used[room]}
    assert not unused, f"allowed, but no longer used: {unused}"


def test_the_table_names_every_room_and_has_no_circle() -> None:
    known = modules()
    assert {room_of(module, known) for module in known} <= set(ALLOWED)
    assert list(graphlib.TopologicalSorter(ALLOWED).static_order())


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    graph = {
        module: {target for _, target in imported(path, known) if target in known} - {module}
        for module, path in known.items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_no_test_imports_from_a_module_that_pytest_collects() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {target}; what several tests use is in a module of its own"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, target in imported(path, {})
        if target.startswith("tests.") and target.rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("top", [*LAYERS, "tests", "benchmarks"])
def test_no_folder_holds_more_files_than_fit_on_a_screen(top: str) -> None:
    folders = {path.parent for path in (ROOT / top).rglob("*.py")}
    counts = {folder.relative_to(ROOT): len(list(folder.glob("*.py"))) for folder in folders}
    assert counts
    assert not {str(folder): count for folder, count in counts.items() if count > MOST_FILES}


def test_schemas_load_in_a_fresh_interpreter_without_any_heavy_library_and_fast() -> None:
    program = (
        "import importlib, pkgutil, sys, time\n"
        "began = time.process_time()\n"
        "import schemas\n"
        "for module in pkgutil.walk_packages(schemas.__path__, 'schemas.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(time.process_time() - began)\n"
        f"print(*sorted(set(sys.modules) & {HEAVY!r}))\n"
        "print(sum(name.startswith('schemas.') for name in sys.modules))\n"
    )
    # Processor time excludes other tests that run on this machine.
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, came_along, loaded = done.stdout.split("\n")[:3]
    assert came_along == ""
    assert int(loaded) > 30
    assert float(seconds) < 1.0
