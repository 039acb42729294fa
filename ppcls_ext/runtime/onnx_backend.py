"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppcls_ext.runtime.artefacts import Artefact
from ppcls_ext.runtime.contract import NamedInputs
from ppcls_ext.runtime.description import Description, DetectionDescription

# Errors only: it also warns of optimisations that do not matter to anyone.
ERRORS_ONLY = 3


class OnnxRuntimeBackend(NamedInputs):
    """Runs an exported network with ONNX Runtime, which is imported when the first one is made.

    It is a ``Backend`` for a classifier and a ``DetectionBackend`` for a detector.

    Args:
        description: names the folder.
        artefact: names the file.
        threads: threads inside an operator.
        onednn: has no meaning here.

    Attributes:
        computed_in: float32, also where weights are stored in float16.
    """

    def __init__(
        self, description: Description | DetectionDescription, artefact: Artefact, threads: int, onednn: bool = True
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # These networks are chains: operators side by side would only take each other's cores.
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(
            str(description.folder / artefact.model_file), options, providers=["CPUExecutionProvider"]
        )
        self.input_names = [node.name for node in self._session.get_inputs()]
        self.computed_in = "float32"

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``NamedInputs``."""
        arrays = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in inputs.items()}
        return self._session.run(None, arrays)
