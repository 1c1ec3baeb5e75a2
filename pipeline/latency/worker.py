"""One model in a process of its own, which answers batches when it is told to: `python worker.py MODEL THREADS`.

Nothing is imported but what the model needs, so that start-up and memory are those of a program that serves it. Lines
of JSON come in and go out: first the batches, then a line for each round over them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Batch = dict[str, list[list[int]]]
"""(batch, sequence) by the name of a model's input."""


def torch_answers(folder: Path, threads: int) -> Callable[[Batch], Any]:
    """Return a function that runs a transformers folder in torch, in float32, without gradients."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    (architecture,) = config.architectures or ("AutoModel",)
    loader: Any = getattr(transformers, architecture, transformers.AutoModel)
    model = loader.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def run(batch: Batch) -> None:
        model(**{name: torch.tensor(rows) for name, rows in batch.items()})

    return run


def onnx_answers(file: Path, threads: int) -> Callable[[Batch], Any]:
    """Return a function that runs an ONNX file."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads would burn the processor time of the models that are measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = {node.name for node in session.get_inputs()}

    def run(batch: Batch) -> None:
        session.run(None, {name: np.array(rows, np.int64) for name, rows in batch.items() if name in inputs})

    return run


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(path: str, threads: int) -> None:
    """Load the model, answer one batch, and then a round for each line."""
    answers = onnx_answers if path.endswith(".onnx") else torch_answers
    answer = answers(Path(path), threads)
    batches: list[Batch] = json.loads(sys.stdin.readline())
    answer(batches[0])
    say({"ready": True})
    for _ in sys.stdin:
        wall, processor = timed_round(answer, batches)
        say({"wall": wall, "processor": processor, "peak_bytes": peak_bytes()})


def timed_round(answer: Callable[[Batch], Any], batches: list[Batch]) -> tuple[list[float], list[float]]:
    """Answer every batch; return the seconds of wall and of processor time of each."""
    wall: list[float] = []
    processor: list[float] = []
    for batch in batches:
        began, used = time.perf_counter(), time.process_time()
        answer(batch)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return wall, processor


def say(value: Any) -> None:
    """Write a line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
