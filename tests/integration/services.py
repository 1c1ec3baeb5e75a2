"""The services of docker/compose.yaml as processes of this machine, and an object store without conditional writes.

PostgreSQL is the system's (Debian's package `postgresql`), all others are packages of the extra `integration`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fault.services.composed import service
from tests.support.paths import ROOT
from tests.support.processes import Process, free_port, running

SECRETS = {
    "POSTGRES_PASSWORD": "of-postgres-1",
    "PREFECT_PASSWORD": "of-prefect-22",
    "MLFLOW_PASSWORD": "of-mlflow-3333",
    "MLFLOW_SECRET_KEY": "of-flask-4444",
    "S3_PASSWORD": "of-objects-55",
}
"""What docker/.env would say."""
STORE = "s3://distill/store"
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's jobs are three more processes, for evaluations that nobody asks for here.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A machine that is busy with all of them answers late.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
_PORTS = ("master", "volume", "filer")
_INTERNAL = {"master": "9333", "volume": "8080", "filer": "8888"}


def program(name: str) -> str:
    """Path of a program of the extra `integration`; skips the test without it."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        pytest.skip(f"no program {name}; install the extra `integration`")
    return str(path)


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 300, pause: float = 0.1) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what} not within {seconds} s"
        time.sleep(pause)


def answers(address: str) -> bool:
    """Return whether a server answers a request without an error."""
    try:
        return httpx.get(address, timeout=10).is_success
    except httpx.TransportError:
        return False


# PostgreSQL.


def _postgres_programs() -> Path:
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "initdb").is_file()]
    if not usable:
        pytest.skip("no PostgreSQL server; `make integration` installs Debian's package postgresql")
    return usable[-1]


def _owner() -> tuple[int, tuple[str, ...]]:
    """User id of the server, which must not be root's, and the words that start a command as that user."""
    if os.geteuid() != 0:
        return os.geteuid(), ()
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    return user.pw_uid, ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")


@contextmanager
def postgres() -> Iterator[int]:
    """A database server with the databases of docker/servers; yield its port."""
    bin_folder, (uid, as_user) = _postgres_programs(), _owner()
    _, env = service("postgres", SECRETS, {})
    # Not below pytest's folders, which only their owner may enter.
    folder, port = Path(tempfile.mkdtemp(prefix="distill-postgres-")), free_port()
    try:
        (folder / "password").write_text(env["POSTGRES_PASSWORD"], encoding="utf-8")
        for path in (folder, folder / "password"):
            os.chown(path, uid, -1)
        initdb = (bin_folder / "initdb", "--pgdata", folder / "data", "--username", env["POSTGRES_USER"], "--no-sync")
        initdb = (*initdb, "--pwfile", folder / "password", *env["POSTGRES_INITDB_ARGS"].split())
        subprocess.run([*as_user, *map(str, initdb)], check=True, capture_output=True, cwd="/", text=True)
        server = [str(bin_folder / "postgres"), "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-F"]
        with running(*as_user, *server, "-k", str(folder)) as process:
            process.wait_for("ready to accept connections")
            login = {"PGPASSWORD": env["POSTGRES_PASSWORD"]}
            databases = ROOT / "docker" / "servers" / "databases.sql"
            psql = (bin_folder / "psql", "--set", "ON_ERROR_STOP=1", "--host", "127.0.0.1", "--port", port, "--dbname")
            psql = (*psql, "postgres", "--username", env["POSTGRES_USER"], "--no-password", "--file", databases)
            subprocess.run(list(map(str, psql)), check=True, capture_output=True, env={**os.environ, **login})
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Object stores.


@dataclass
class ObjectStore:
    """A server for S3 of this machine."""

    address: str
    env: dict[str, str]
    """Variables of its clients."""
    keeps_conditions: bool
    """False if it overwrites in spite of If-None-Match."""
    process: Process
    ports: dict[str, int]


def _client(address: str) -> dict[str, str]:
    _, env = service("worker", SECRETS, {"http://s3:8333": address})
    return {name: value for name, value in env.items() if name.startswith("AWS_")}


def _free_pair() -> int:
    """A free port below which SeaweedFS's second one, 10,000 higher, is free too."""
    for _ in range(100):
        port = free_port() % 20_000 + 20_000
        try:
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
    raise OSError("no free ports")


@contextmanager
def seaweedfs(folder: Path, ports: dict[str, int] | None = None) -> Iterator[ObjectStore]:
    """The object store of docker/compose.yaml, with its data in a folder."""
    weed = program("weed")
    folder.mkdir(exist_ok=True)
    ports = ports or {name: _free_pair() for name in (*_PORTS, "s3")}
    moved = {f"-{name}.port={_INTERNAL[name]}": f"-{name}.port={ports[name]}" for name in _PORTS}
    moved |= {"-dir=/data": f"-dir={folder}", "8333": str(ports["s3"]), "0.0.0.0": "127.0.0.1"}
    (_, *command), env = service("s3", SECRETS, moved)
    address = f"http://127.0.0.1:{ports['s3']}"
    # Its log and sockets are in the folder of temporary files.
    with running(weed, *command, env={**env, "TMPDIR": str(folder)}) as process:
        wait_until(lambda: answers(f"{address}/healthz"), f"an object store:\n{process.output}")
        yield ObjectStore(address, _client(address), True, process, ports)


@contextmanager
def rclone(folder: Path) -> Iterator[ObjectStore]:
    """A server that does not know conditional writes; its buckets are folders."""
    (folder / "distill").mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    env = _client(address)
    login = f'"{env["AWS_ACCESS_KEY_ID"]},{env["AWS_SECRET_ACCESS_KEY"]}"'
    command = (program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(folder))
    with running(*command, env={"RCLONE_AUTH_KEY": login, "RCLONE_CONFIG": str(folder / "none")}) as process:
        wait_until(lambda: _listens(port), "an object store")
        yield ObjectStore(address, env, False, process, {"s3": port})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# All of them.


@dataclass
class Services:
    """Prefect, MLflow, PostgreSQL and the object store, and what starts workers for them."""

    folder: Path
    moved: dict[str, str]
    objects: ObjectStore

    def env(self, machine: str, name: str = "worker") -> dict[str, str]:
        """Environment of a worker on a machine of that name, which has a local copy of its own."""
        _, env = service(name, SECRETS, self.moved)
        home = self.folder / machine
        home.mkdir(exist_ok=True)
        logs = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_TO_API_ENABLED": "true"}
        own = {"PREFECT_HOME": str(home / "prefect"), "DISTILL_CACHE": str(home / "cache")}
        if name == "stages":
            own["PREFECT_WORKER_WEBSERVER_PORT"] = str(free_port())
        return {**env, **QUIET, **logs, **own}

    @contextmanager
    def machine(self, name: str, of: str) -> Iterator[Process]:
        """A worker of docker/compose.yaml (`worker` or `stages`) on a machine of its own."""
        command, _ = service(of, SECRETS, self.moved)
        if of == "stages":
            command = (*command, f"--name={name}")
        with running(*command, env=self.env(name, of)) as process:
            yield process

    def post(self, path: str, content: dict[str, object]) -> list[dict[str, object]]:
        """Ask Prefect's server."""
        env = self.env("reader")
        user, _, password = env["PREFECT_API_AUTH_STRING"].partition(":")
        answer = httpx.post(f"{env['PREFECT_API_URL']}{path}", json=content, auth=(user, password), timeout=60)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    """All servers of docker/compose.yaml."""
    pytest.importorskip("psycopg2", reason="extra integration")
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        objects = stack.enter_context(seaweedfs(folder / "objects"))
        ports = {name: free_port() for name in ("prefect", "mlflow")}
        moved = {
            "distill@postgres/": f"distill@127.0.0.1:{database}/",
            "/etc/distill/mlflow.ini": str(folder / "mlflow.ini"),
            "/etc/distill/pool.json": str(ROOT / "docker" / "pools" / "process.json"),
            "http://prefect:4200": f"http://127.0.0.1:{ports['prefect']}",
            "http://mlflow:5000": f"http://127.0.0.1:{ports['mlflow']}",
            "http://s3:8333": objects.address,
            "4200": str(ports["prefect"]),
            "=5000": f"={ports['mlflow']}",
            "0.0.0.0": "127.0.0.1",
            "=/store": f"={folder / 'served'}",
            "/tmp/prefect": str(folder / "prefect"),
        }
        ini = (ROOT / "docker" / "servers" / "mlflow.ini").read_text("utf-8")
        (folder / "mlflow.ini").write_text(ini.replace("@postgres/", f"@127.0.0.1:{database}/"), encoding="utf-8")
        started = []
        for name, ready in (("mlflow", "Application startup complete"), ("prefect", "Check out the dashboard")):
            command, env = service(name, SECRETS, moved)
            started.append((stack.enter_context(running(*command, env=env | QUIET)), ready))
        for server, ready in started:
            server.wait_for(ready, seconds=400)
        wait_until(lambda: answers(f"http://127.0.0.1:{ports['prefect']}/api/health"), "Prefect")
        yield Services(folder, moved, objects)


def send_to_all(processes: list[int], number: signal.Signals) -> None:
    """Send a signal to processes that may have ended."""
    for pid in processes:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
