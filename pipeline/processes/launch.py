"""Runs a stage in several processes and follows them: torchrun starts them, process 0 reports."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.processes.follow import Elsewhere, Followed
from pipeline.processes.machines import Machines
from pipeline.processes.wire import Request
from schemas.core.errors import ProcessLost
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart
from schemas.recipe.teacher import located, members_of
from schemas.results.manifest import StageResult
from stages.build import afresh
from stages.device.network import interface_of
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.ports.protocols import Ports
from stages.run import prepare_data
from stages.start import start_text

log = logging.getLogger(__name__)

_SHOWN_LINES = 20


@dataclass(frozen=True)
class Share:
    """The processes of a stage that one machine runs."""

    number: int
    """Processes of this machine."""
    first: int = 0
    """Rank of the first of them."""
    size: int = 0
    """Processes of all machines; 0 if this is the only one."""
    meeting: str = ""
    """Address through which all processes find each other, as in `ProcessGroup`; empty if this is the only machine."""
    address: str = "127.0.0.1"
    """Address of this machine for the processes of the others."""


def run_in_processes(number: int, request: Request, ports: Ports, machines: Machines | None = None) -> StageResult:
    """Run a stage in some processes of this machine, and in those of other machines.

    Args:
        number: of processes of this machine.
        request: the stage.
        ports: receives what process 0 reports, and is asked for the user's request to stop.
        machines: the other machines; None trains on this one alone.

    Raises:
        Interrupted: a stop was requested; the training state was saved.
        ProcessLost: a process ended without a result; the last state is kept.
        ConfigError: too few machines have joined.
        DistillError: as `stages.run.run_stage`.
    """
    if machines is None:
        prepare(request.config, ports, has_parent=request.parent is not None)
        result = run_share(Share(number), request, ports, Elsewhere())
    else:
        with machines.attempt(request, ports) as attempt:
            prepare(request.config, ports, has_parent=request.parent is not None)
            size = attempt.gather(number)
            share = Share(number, 0, size, attempt.meeting, machines.address)
            result = run_share(share, request, ports, attempt)
    return StageResult.model_validate(result)


def run_share(share: Share, request: Request, ports: Ports, elsewhere: Elsewhere) -> dict[str, Any] | None:
    """Run this machine's processes of a stage; return the result of its first, None unless that is process 0."""
    with (
        ports.shielded(math.inf),
        tempfile.TemporaryDirectory(prefix="distill-") as name,
        _listener(Path(name), share.number) as listener,
        open(Path(name) / "output", "wb") as output,
    ):
        folder = Path(name)
        (folder / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
        ports.progress.phase(f"starting {share.number} process{'es' * (share.number > 1)}")
        launcher = subprocess.Popen(
            _command(share, folder),
            env=_environment(share),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the run, which asks the processes to stop
        )
        stage = Followed(share.number, request.config.name, listener, launcher, ports, elsewhere)
        try:
            return stage.result()
        except ProcessLost:
            log.info("output of the processes:\n%s", _end_of(folder / "output"))
            raise
        finally:
            stage.end()


@contextmanager
def _listener(folder: Path, number: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(number)
        yield listener


def prepare(config: StageConfig, ports: Ports, *, has_parent: bool) -> None:
    """Fetch the models and fill the cache with the data, so that no process of the stage waits for another's work.

    Args:
        config: the stage.
        ports: its outside.
        has_parent: False if its student starts afresh.
    """
    folder = locate(config.pretrained)
    for teacher in members_of(located(config.teacher, ports.checkpoints.folder_of)):
        locate(teacher.model)
    tokenizer = load_tokenizer(folder, load_config(folder))
    prepare_data(config, folder, tokenizer, ports)
    start = None if config.student is None or has_parent else config.student.start
    if config.start_text is not None or isinstance(start, ExtractStart):
        text = start_text(config, tokenizer, ports.cache)
        if config.student is not None and isinstance(start, ExtractStart) and start.units == "importance":
            afresh(config.student, folder, text, tokenizer, ports.cache)  # keeps what it measures


def _command(share: Share, folder: Path) -> list[str]:
    # The launcher's own meeting is a private file; torch's default is a port on all interfaces, and pickles there.
    options = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file", f"--rdzv-endpoint={folder / 'launcher'}"]
    options += ["--local-addr=127.0.0.1", "--nnodes=1", f"--nproc-per-node={share.number}", "--max-restarts=0"]
    program = ["-m", "pipeline.processes.rank", str(folder / "request.json"), str(folder / "socket")]
    place = [share.meeting or (folder / "group").as_uri(), str(share.first), str(share.size or share.number)]
    return [sys.executable, "-P", "-m", "torch.distributed.run", *options, *program, *place]


def _environment(share: Share) -> dict[str, str]:
    """Return the processes' environment: cores shared out, and the interface through which they speak."""
    root = str(Path(__file__).parents[2])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // share.number)),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a port on all interfaces, which nothing uses
    }
    if interface := interface_of(share.address):
        defaults |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # No module comes from the folder that the run was started in.
    return {**defaults, **os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _end_of(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
