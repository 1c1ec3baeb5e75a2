"""Credentials of the environment and of addresses reach no file, database or visible output.

The servers are started as in docker/compose.yaml, so the same run also shows that their logins work.
"""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.launch import run_recipes
from pipeline.tracking.session import Tracking
from schemas.core.credentials import refuse_credentials, secrets_of, without_credentials, without_secrets
from schemas.core.errors import ConfigError
from schemas.loading.load import load_recipe
from tests.fault.services.composed import service
from tests.support.command_line import Distill
from tests.support.processes import forked, free_port, running
from tests.support.toys import toy_recipe_dict

SECRETS = {
    "POSTGRES_PASSWORD": "postgres-canary-1",
    "PREFECT_PASSWORD": "prefect-canary-22",
    "MLFLOW_PASSWORD": "mlflow-canary-333",
    "MLFLOW_SECRET_KEY": "flask-canary-4444",
    "S3_PASSWORD": "objects-canary-66",
    "HF_TOKEN": "hf_canary55555",
}
OTHERS = {
    "AWS_SECRET_ACCESS_KEY": "aws-canary-666666",
    "PREFECT_API_KEY": "",  # one login at a time: Prefect's client would send the key instead
    "HUGGING_FACE_HUB_TOKEN": "hub-canary-7777777",
    "DATABASE_PASSWORD": "database-canary-8",
}
WRONG = "wrong-canary-9999"


def forms(secret: str) -> set[bytes]:
    """Return the forms of a secret in a file: plain, and in a request's header."""
    texts = (secret, f"distill:{secret}")
    return {secret.encode()} | {base64.b64encode(text.encode()) for text in texts}


def leaks(*sources: Path | str) -> list[str]:
    """Return the secrets found in files below a folder, or in texts."""
    wanted = [form for secret in (*SECRETS.values(), *OTHERS.values(), WRONG) if secret for form in forms(secret)]
    contents: list[tuple[str, bytes]] = []
    for field in sources:
        if isinstance(field, str):
            contents.append((field[:40], field.encode()))
        else:
            result = [path for path in field.rglob("*") if path.is_file()]
            assert result, field
            contents += [(str(path), path.read_bytes()) for path in result]
    return [f"{form.decode()} in {name}" for name, content in contents for form in wanted if form in content]


def test_search_finds_credentials(tmp_path: Path) -> None:
    header = base64.b64encode(b"distill:prefect-canary-22")
    (tmp_path / "a").write_bytes(b"\0\0Basic " + header)
    assert len(leaks(tmp_path, "x mlflow-canary-333")) == 2


@pytest.mark.parametrize(
    "address",
    [
        "https://user:canary@example.com/data.jsonl",
        "https://user:can/ary@example.com/data.jsonl",
        "https://canary@example.com/x",
        "s3://key:canary@bucket/x",
        "https://example.com/x?token=canary",
        "https://example.com/x?a=1&api_key=canary",
        "https:/user:canary@example.com/x",
    ],
)
@pytest.mark.parametrize(
    "field",
    ["task.train", "teacher.model", "description", "general_corpus.sources.0.paths", "name", "task", "nonsense"],
)
def test_address_with_credentials_is_refused_without_showing_them(tmp_path: Path, field: str, address: str) -> None:
    recipe = toy_recipe_dict(tmp_path / "in")
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    value = f"[{address!r}]" if field.endswith("paths") else f"{address!r}"
    refusals = []
    for source, changes in ((path, [f"{field}={value}"]), (path, [f"{address}=1"]), (address, [])):
        with pytest.raises(ConfigError) as refused:
            load_recipe(source, changes, recipes_folder=None)
        refusals.append(str(refused.value))
    # The same in the file, as a value and as a key.
    for changed in (recipe | {field: [address]}, recipe | {"task": {"train": {address: 1}}}):
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        with pytest.raises(ConfigError) as refused:
            load_recipe(path, recipes_folder=None)
        refusals.append(str(refused.value))
    for text in refusals:
        assert "canary" not in text
        assert "ary@" not in text
        assert "they belong in the environment" in text
    assert "task.train" in refusals[-1]


@pytest.mark.parametrize(
    "text",
    [
        "./my data/train.jsonl",
        "user@host",
        "google-bert/bert-base-uncased",
        "C:/x",
        "a: b@c",
        "sqlite:////tmp/a@b/x.db",
        "https://example.com:5000/x@y",
        "3 epochs",
        "http://127.0.0.1:4200/api",
    ],
)
def test_text_without_credentials_passes(text: str) -> None:
    refuse_credentials({"field": [text, {"key": text}]})
    assert without_credentials(text) == text


@pytest.mark.parametrize("option", ["resume_from", "store"])
def test_option_with_credentials_never_becomes_a_prefect_parameter(option: str) -> None:
    options = dict.fromkeys(("from_stage", "until_stage", "resume_from", "store"))
    with pytest.raises(ConfigError, match="they belong in") as refused:
        run_recipes(["quickstart"], [], options | {option: "https://me:canary@example.com/x"})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("address", ["https://me:canary@example.com/x", "https://example.com/x?token=canary"])
def test_no_command_prints_credentials_of_an_address(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Distill(capfd, monkeypatch)
    for arguments in (
        ("compare", address),
        ("compare", "--store", address),
        ("gc", "--store", address),
        ("verify", address),
        ("evaluate", ".", "--task", address),
        ("evaluate", address, "--task", "sst2"),
        ("show", address),
        ("plan", "quickstart", "--set", f"task.train={address}"),
    ):
        assert "canary" not in terminal.refused(*arguments)
    assert not (tmp_path / "https:").exists()


@settings(max_examples=300, deadline=None)
@given(
    user=st.text("abcXYZ0-_.~", min_size=1, max_size=8),
    password=st.text("abcXYZ09-_.~!$*+,;=%/:@", min_size=8, max_size=30),
    rest=st.sampled_from(["", "/", ":5000/x", "/a?b=c", "/a b 'c'"]),
)
def test_no_password_in_an_address_is_shown(user: str, password: str, rest: str) -> None:
    assume(not re.match(r"\d{1,5}/", password))  # a port and a path
    text = without_credentials(f"asked 'http://{user}:{password}q9@example.com{rest}' in vain")
    assert f"{password}q9" not in text
    assert "example.com" in text


def test_text_of_many_addresses_is_searched_in_bounded_time() -> None:
    import time

    began = time.process_time()
    without_credentials("://a:b" * 160_000 + "?" * 1000 + "a_key" * 1000)
    assert time.process_time() - began < 10


def test_environment_secrets_are_removed_from_log_lines_in_every_form() -> None:
    environ = {
        "PREFECT_API_AUTH_STRING": "me:prefect-canary-22",
        "MLFLOW_TRACKING_URI": "http://me:mlflow-canary-333@127.0.0.1",
        "HF_TOKEN": "hf_canary55555",
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": "/usr/bin:/usr/local/bin",
    }
    header = base64.b64encode(b"me:prefect-canary-22").decode()
    line = f"auth {header} prefect-canary-22 'hf_canary55555' mlflow-canary-333 false /usr/bin"
    cleaned = without_secrets(line, secrets_of(environ))
    assert cleaned == "auth *** *** '***' *** false /usr/bin"


@contextmanager
def servers(folder: Path, prefect_home: Path) -> Iterator[dict[str, str]]:
    """Prefect and MLflow as in docker/compose.yaml, but on SQLite; yield the worker's environment."""
    ports = {name: free_port() for name in ("prefect", "mlflow")}
    moved = {
        "postgresql+asyncpg://distill@postgres/prefect": f"sqlite+aiosqlite:///{prefect_home}/prefect.db",
        "postgresql+psycopg2://distill@postgres/mlflow": f"sqlite:///{folder}/mlflow.db",
        "/etc/distill/mlflow.ini": str(folder / "mlflow.ini"),
        "--workers=2": "--workers=1",
        "http://prefect:4200": f"http://127.0.0.1:{ports['prefect']}",
        "http://mlflow:5000": f"http://127.0.0.1:{ports['mlflow']}",
        "4200": str(ports["prefect"]),
        "=5000": f"={ports['mlflow']}",
        "0.0.0.0": "127.0.0.1",
        "s3://distill/store": str(folder / "served"),
        "/store": str(folder / "served"),
        "/tmp/prefect": str(prefect_home),
    }
    ini = (Path(__file__).resolve().parents[3] / "docker" / "servers" / "mlflow.ini").read_text("utf-8")
    login = ini.replace("postgresql+psycopg2://distill@postgres/mlflow", f"sqlite:///{folder}/login.db")
    (folder / "mlflow.ini").write_text(login, encoding="utf-8")
    # MLflow's jobs are three more processes, for evaluations that nobody asks for here.
    quiet = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ExitStack() as stack:
        started = []
        for name, ready in (("mlflow", "Application startup complete"), ("prefect", "Check out the dashboard")):
            command, env = service(name, SECRETS, moved)
            server = stack.enter_context(running(*command, env=env | quiet))
            started.append((server, ready))
        for server, ready in started:
            server.wait_for(ready, seconds=280)
        _, env = service("worker", SECRETS, moved)
        yield env | OTHERS | quiet
    for server, _ in started:
        assert leaks(server.output) == []


def status(address: str, login: str | None = None) -> int:
    """Return the HTTP status of a server's answer."""
    request = urllib.request.Request(address)
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        return int(urllib.request.urlopen(request, timeout=30).status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_with_passwords_leaves_no_secret_anywhere(
    tmp_path: Path, prefect_home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = write_recipe(tmp_path), tmp_path / "store"
    (tmp_path / "served").mkdir()
    with servers(tmp_path, prefect_home) as env:
        mlflow = env["MLFLOW_TRACKING_URI"]
        for server, path, password in (
            (env["PREFECT_API_URL"], "/admin/version", "PREFECT_PASSWORD"),
            (mlflow, "/api/2.0/mlflow/experiments/search?max_results=1", "MLFLOW_PASSWORD"),
        ):
            logins = {None: 401, f"distill:{WRONG}": 401, f"distill:{SECRETS[password]}": 200}
            assert {login: status(server + path, login) for login in logins} == logins

        # The worker's environment, but with the password in the address, which more code reads.
        inside = {
            "MLFLOW_TRACKING_URI": mlflow.replace("://", f"://distill:{SECRETS['MLFLOW_PASSWORD']}@"),
            "MLFLOW_TRACKING_USERNAME": "",
            "MLFLOW_TRACKING_PASSWORD": "",
        }
        loud = env | {"DISTILL_LOG_LEVEL": "DEBUG"}
        refused = loud | {"PREFECT_API_AUTH_STRING": f"distill:{WRONG}"}
        command = ("run", recipe, "--store", store)
        with forked(*command, env=loud | inside) as good, forked(*command, env=refused) as bad:
            assert good.wait(280) == 0, good.output
            assert bad.wait(280) == 1, bad.output
        assert "HTTP Request" in good.output  # the log level was DEBUG
        assert "requires other credentials" in bad.output
        assert leaks(good.output, bad.output) == []

        # Data that a server refuses is stored, and sent once the login is correct.
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WRONG)
        kept = Tracking(mlflow, "distill-flow", store / "points", patience=30)
        kept.start_run("kept", {"uri": inside["MLFLOW_TRACKING_URI"]}, {}).finish()
        kept.close()
        terminal = Distill(capfd, monkeypatch)
        code, message, complaint = terminal("sync", "--store", store)
        assert (code, complaint.count("error:")) == (1, 1)
        assert "requires other credentials" in complaint
        assert leaks(message + complaint) == []
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["MLFLOW_PASSWORD"])
        assert terminal("sync", "--store", store)[0] == 0
        for arguments in (("compare",), ("compare", "--json"), ("plan", recipe)):
            code, message, complaint = terminal(*arguments, "--store", store)
            assert code == 0, complaint
            assert leaks(message + complaint) == []

        client = MlflowClient(tracking_uri=mlflow)
        experiment = client.get_experiment_by_name("distill-flow")
        assert experiment is not None
        names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
        assert {"teacher", "task_specific", "kept"} <= names
    databases = (f"{prefect_home.name}/prefect.db", "mlflow.db", "login.db")
    assert all((tmp_path / name).is_file() for name in databases)
    assert leaks(*(path for path in tmp_path.iterdir() if path.is_dir())) == []
    assert leaks(*((tmp_path / name).read_bytes().decode("latin-1") for name in databases)) == []


def write_recipe(folder: Path) -> Path:
    """Write a toy recipe of one stage that ends with a figure, a table and a model."""
    content = toy_recipe_dict(folder / "in")
    content["stages"] = [content["stages"][3]]
    content["teacher"]["task_model"]["training"]["duration"] = "100 steps"
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
