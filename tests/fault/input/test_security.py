"""No dangerous call in the source, no name that leads outside the store, no world-writable file."""

from __future__ import annotations

import ast
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.flow import distill_flow
from pipeline.planning.options import RunOptions
from pipeline.processes import launch
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.garbage import find_garbage, remove_garbage
from pipeline.store.run_reports import report_path
from pipeline.tracking.artifacts import resolve_run
from pipeline.tracking.client import Rejected, create_run, is_run_id
from schemas.core.errors import CheckpointError, ConfigError
from schemas.core.refs import HubId, Revision
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import FileEntry
from stages.ports.protocols import TrainingState
from stages.storage.sealed_folder import differences
from tests.support.command_line import Distill, ToyRun
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.paths import ROOT
from tests.support.toys import toy_recipe_dict

SOURCES = sorted(path for package in ("schemas", "stages", "pipeline") for path in (ROOT / package).rglob("*.py"))
NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "code",
    "pty",
    "imp",
    "commands",
    "telnetlib",
    "subprocess",
    "multiprocess",
}
CALLS = {
    "os.system",
    "os.popen",
    "os.startfile",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "importlib.import_module",
    "torch.jit.load",
    "torch.package",
    "torch.hub.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "pickle.loads",
    "asyncio.create_subprocess_shell",
}
# Prefect's temporary server, and a model whose time is measured: this Python runs a file of this package.
STARTS_A_FILE = {"pipeline/latency/measure.py": "subprocess", "pipeline/process/prefect_server.py": "subprocess"}
# The processes of a stage: this Python runs torch's launcher, which runs a module of this package.
STARTS_A_PROCESS = STARTS_A_FILE | {
    "pipeline/engines/own_processes.py": "subprocess",
    "pipeline/processes/follow.py": "subprocess",  # ends what launch.py has started
    "pipeline/processes/launch.py": "subprocess",
}
# Keyword, and its only allowed value.
ONLY = {
    "trust_remote_code": False,
    "shell": False,
    "allow_pickle": False,
    "weights_only": True,
    "use_safetensors": True,
}


def dangers(text: str) -> Iterator[str]:
    """Return the forbidden calls of a source text."""
    for node in ast.walk(ast.parse(text)):
        result = []
        if isinstance(node, ast.Import):
            result = [name.name for name in node.names if name.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            result = [f"from {node.module}" for _ in "x" if (node.module or "").partition(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            result = list(_wrong_call(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith(
            ("os.exec", "os.spawn", "os.posix_spawn")
        ):
            result = [ast.unparse(node)]
        yield from (f"line {node.lineno}: {what}" for what in result)


def _wrong_call(call: ast.Call) -> Iterator[str]:
    function = ast.unparse(call.func)
    if function in NAMES | CALLS:
        yield function
    keywords = {word.arg: word.value for word in call.keywords}
    for name, right in ONLY.items():
        value = keywords.get(name)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is right):
            yield f"{function}({name}={ast.unparse(value)})"
    if function.endswith(".from_pretrained") and "trust_remote_code" not in keywords:
        yield f"{function} without trust_remote_code=False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_never_executes_data_or_builds_a_shell_command(path: Path) -> None:
    known = STARTS_A_PROCESS.get(str(path.relative_to(ROOT)))
    result = [finding.partition(": ")[2] for finding in dangers(path.read_text(encoding="utf-8"))]
    assert result == ([known] if known else [])


@pytest.mark.parametrize(
    ("path", "arguments"),
    list(zip(STARTS_A_FILE, ("str(candidate.path), str(threads)", "str(listener.fileno())"), strict=True)),
)
def test_only_this_python_is_started_with_a_file_of_this_package(path: str, arguments: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (started,) = [call for call in calls if ast.unparse(call.func).startswith("subprocess.")]
    command = ast.unparse(started.args[0])
    assert command == f"[sys.executable, '-P', str(_PROGRAM), {arguments}]"


def test_the_processes_of_a_stage_run_modules_that_no_folder_of_the_user_can_replace(tmp_path: Path) -> None:
    command = launch._command(launch.Share(2), tmp_path)
    assert command[:4] == [sys.executable, "-P", "-m", "torch.distributed.run"]
    program = command.index("pipeline.processes.rank")
    assert command[program - 1] == "-m"
    assert command[program + 1 : program + 3] == [str(tmp_path / "request.json"), str(tmp_path / "socket")]
    assert all(option.startswith("--") for option in command[4 : program - 1])
    # The launcher meets in a file: torch's default unpickles what it is sent, on all interfaces.
    assert {"--rdzv-conf=store_type=file", f"--rdzv-endpoint={tmp_path / 'launcher'}"} < set(command)
    assert launch._environment(launch.Share(2))["PYTHONSAFEPATH"] == "1"  # for the processes that the launcher starts


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import subprocess",
        "eval(x)",
        "exec(x)",
        "torch.load(f)",
        "yaml.load(f)",
        "os.system(x)",
        "os.execvp(x, y)",
        "run(x, shell=True)",
        "run(x, shell=wanted)",
        "np.load(f, allow_pickle=True)",
        "A.from_pretrained(f)",
        "A.from_pretrained(f, trust_remote_code=t)",
        "A.from_config(c, trust_remote_code=True)",
        "f(use_safetensors=None)",
        "f(weights_only=0)",
    ],
)
def test_search_finds_each_forbidden_call(text: str) -> None:
    assert list(dangers(text))


PIECES = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "\0",
        "\n",
        "~",
        "-",
        "--",
        "a",
        "Ü",
        "x" * 300,
        "%2e%2e",
        "mlflow:",
        ":",
        "//",
        "C:",
        "$(x)",
        ";",
        "\u202e",
        " ",
        "_",
        "refs/pr/1",
        "{",
        "*",
        "0",
    ]
)
NASTY = st.one_of(st.lists(PIECES, min_size=1, max_size=8).map("".join), st.text(max_size=40))
FOLDER = Path("/a/store/part")


def stays(name: str) -> bool:
    """Return whether a file with that name is inside its folder."""
    path = os.path.normpath(FOLDER / name)
    return "\0" not in name and path.startswith(f"{FOLDER}/") and all(len(p) < 256 for p in path.split("/"))


def accepted(annotation: Any, name: str) -> bool:
    try:
        TypeAdapter(annotation).validate_python(name)
    except ValidationError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(NASTY)
@example("..")
@example("../x")
@example("a/../../b")
@example("...")
@example("a/..")
@example("/etc")
@example("x\n")
def test_accepted_names_stay_in_their_folder(name: str) -> None:
    single = stays(name) and "/" not in name
    assert stays(name) or not accepted(HubId, name)
    assert stays(name) or not accepted(Revision, name)
    assert single or not is_run_id(name)
    field = Recipe.model_fields["name"]
    assert single or not accepted(_annotated(field.annotation, field.metadata), name)


def _annotated(annotation: Any, metadata: list[Any]) -> Any:
    return Annotated[annotation, *metadata]


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "gpt2", "a.b/c.d_e-f", "BAAI/bge-small-en-v1.5"])
def test_common_hub_names_are_accepted(name: str) -> None:
    assert accepted(HubId, name)


@pytest.mark.parametrize("name", ["main", "refs/pr/12", "v1.2.0", "0123456789abcdef" * 2, "feature/x-y_z"])
def test_common_revisions_are_accepted(name: str) -> None:
    assert accepted(Revision, name)


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory, prefect: str) -> ToyRun:
    """The toy recipe, run once in a process with a permissive umask, and a state."""
    folder = tmp_path_factory.mktemp("toy")
    recipe, store = folder / "toy.yaml", folder / "store"
    content = toy_recipe_dict(folder / "in")
    content["stages"] = [content["stages"][0], content["stages"][3]]
    content["teacher"]["task_model"]["training"]["duration"] = "100 steps"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    before = os.umask(0)
    try:
        report = distill_flow(recipe=str(recipe), options=RunOptions(store=str(store)))
        states = open_store(store).states("general", DIGEST)
        states.save(TrainingState(step=1, tensors={}, numbers={}))
    finally:
        os.umask(before)
    return ToyRun(recipe, store, report)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return open_store(tmp_path / "store")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY)
@example("../../secret")
@example("../secret")
def test_run_names_never_lead_outside_the_store(store: CheckpointStore, name: str) -> None:
    (store.root.parent / "secret.json").write_text("{}")
    (store.root / "runs" / "a.json").write_text("{}")
    with pytest.raises((ConfigError, CheckpointError)) as refused:
        store.read_report(name)
    assert isinstance(refused.value, ConfigError) or name == "a"
    try:
        path = report_path(store.root, name)
    except ConfigError:
        return
    assert path.parent == store.root / "runs"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY)
@example("../outside")
@example("model/../../../outside")
def test_manifest_never_leads_outside_its_folder(store: CheckpointStore, name: str) -> None:
    (store.root / "outside").write_bytes(b"")
    folder = store.root / "checkpoints" / "x"
    folder.mkdir(exist_ok=True)
    empty = FileEntry(size=0, sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    try:
        assert differences(folder, {name: empty}, content=True)
    except (OSError, ValueError):  # a name that no file can have
        assert not stays(name)


@pytest.mark.parametrize("run_id", ["../../x", "/etc/x", "x" * 5000, "a\0b", "..", "", "a/b"])
def test_no_run_id_leads_outside_the_store(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(CheckpointError, match="is not the id of a run"):
        resolve_run(run_id, uri=f"sqlite:///{tmp_path}/none.db", store=CheckpointStore(tmp_path))
    answer = SimpleNamespace(info=SimpleNamespace(run_id=run_id))
    lying = SimpleNamespace(create_run=lambda *_, **__: answer)
    with pytest.raises(Rejected):
        create_run(lying, "0", "name", {})
    assert list(tmp_path.iterdir()) == []


def test_links_in_the_store_are_replaced_or_removed_and_never_followed(tmp_path: Path, toy_run: ToyRun) -> None:
    store = open_store(tmp_path / "store")
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (outside / "report.json").write_text("kept")
    name = "a-run"
    (store.root / "runs" / f"{name}.json").symlink_to(outside / "report.json")
    judged = store.root / "evaluations" / f"{DIGEST}.json"
    judged.symlink_to(outside / "report.json")
    store.write_report(toy_run.report.model_copy(update={"run": name}))
    store.write_judgement(DIGEST, toy_run.report.rows[0].judgement)
    # At the paths of a checkpoint and of a cache entry.
    store.folder("teacher", DIGEST).symlink_to(outside)
    (store.cache / "tokens").symlink_to(outside)
    (store.cache / "linked").symlink_to(outside)
    store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    remove_garbage(store, find_garbage(store, older_than=-1))
    assert sorted(path.name for path in outside.iterdir()) == ["kept", "report.json"]
    assert (outside / "report.json").read_text() == "kept"
    assert not judged.is_symlink()


@pytest.fixture
def distill(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Distill:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Distill(capfd, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "/dev/null",
        "x" * 300,
        "x" * 5000,
        "../" * 2000,
        "~nobody-here/x",
        "\udcff",
        "a\nb",
        "mlflow:../../x",
        "$(touch x)",
        "; touch x",
    ],
)
def test_odd_names_are_refused_on_one_line_and_leave_nothing(
    distill: Distill, toy_run: ToyRun, tmp_path: Path, name: str
) -> None:
    student = toy_run.report.rows[-1].checkpoint
    assert student is not None
    store = ("--store", tmp_path / "store")
    before = set(tmp_path.rglob("*"))
    for arguments in (
        ("compare", *store, "--", name),
        ("verify", "--", name),
        ("evaluate", student.path, *store, "--task", name),
        ("show", "--", name),
        ("plan", toy_run.recipe, *store, "--set", f"task.train={name!r}"),
        ("plan", toy_run.recipe, *store, "--set", f"teacher.model=./{name!r}"),
        ("plan", toy_run.recipe, *store, "--set", f"name={name!r}"),
        ("run", toy_run.recipe, *store, "--until", "general", "--resume-from", name),
        ("run", toy_run.recipe, *store, "--from", name),
    ):
        message = distill.refused(*arguments)
        assert len(message) < 2000, arguments[0]
    left = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "store") for path in left)


def open_to_all(folder: Path) -> list[str]:
    """Return the world-writable paths below a folder."""
    return [
        f"{stat.filemode(path.lstat().st_mode)} {path.relative_to(folder)}"
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & stat.S_IWOTH
    ]


def test_files_of_a_run_are_never_world_writable(toy_run: ToyRun) -> None:
    root = toy_run.store
    kinds = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    parts = ("checkpoints", "states", "evaluations", "runs", "cache", "points", "locks")
    assert kinds >= {*parts, "mlflow.db", "mlartifacts"}
    assert open_to_all(root) == []
