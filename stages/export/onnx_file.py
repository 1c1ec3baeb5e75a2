"""An ONNX file that answers, read by ONNX Runtime and nothing else: neither torch nor transformers is imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.core.errors import ConfigError, DistillError

Inputs = dict[str, NDArray[np.int64]]
"""(batch, sequence) by the name of a file's input."""
NEEDED = "ONNX files need the packages of the extra `onnx`: pip install 'distill-flow[onnx]'"


class OnnxModel:
    """An ONNX file that answers."""

    def __init__(self, file: Path, *, threads: int = 0) -> None:
        """Open the file.

        Args:
            file: the file.
            threads: threads of a product; 0 for as many as there are cores.

        Raises:
            ConfigError: ONNX Runtime is not installed.
            DistillError: it cannot read the file.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ConfigError(NEEDED) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait double the processor time, and halve the speed on a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes of errors are private
            reason = " ".join(str(error).split())[:300]
            raise DistillError(
                f"{file} cannot be read by ONNX Runtime {onnxruntime.__version__}: {reason}; install a newer one, or "
                "export again"
            ) from None
        self.inputs = {node.name for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]

    def run(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return the answers to a batch; those of several outputs side by side in the last dimension.

        Args:
            inputs: (batch, sequence) by name; those that the file does not read are left out.
        """
        answers = self.session.run(None, {name: value for name, value in inputs.items() if name in self.inputs})
        return np.stack(answers, axis=-1) if len(answers) > 1 else np.asarray(answers[0])
