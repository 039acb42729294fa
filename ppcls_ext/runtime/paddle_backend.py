"""Paddle Inference on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from ppcls_ext.runtime.artefacts import Artefact
from ppcls_ext.runtime.contract import NamedInputs
from ppcls_ext.runtime.description import Description, DetectionDescription

# Paddle wakes a thread after every operator to free its inputs, which costs a tenth of the latency of a small network.
# Letting so much garbage (in GB) pile up first makes that rare.
GARBAGE_FLAG = "FLAGS_eager_delete_tensor_gb"
GARBAGE_LIMIT = 0.03
BFLOAT16 = "bfloat16"


class PaddleBackend(NamedInputs):
    """Runs an exported network with Paddle Inference; Paddle is imported when the first one is made.

    It is a ``Backend`` for a classifier and a ``DetectionBackend`` for a detector.

    Args:
        description: names the folder.
        artefact: names the files, and the precision to compute in.
        threads: threads of the mathematics library.
        onednn: use oneDNN's kernels instead of Paddle's plain ones, which know float32 only.

    Attributes:
        computed_in: bfloat16 where it was asked for, with oneDNN, on a processor that has it; else float32.
    """

    def __init__(
        self, description: Description | DetectionDescription, artefact: Artefact, threads: int, onednn: bool = True
    ) -> None:
        from paddle import inference

        self.computed_in = BFLOAT16 if artefact.precision == "bf16" and onednn and _has_bfloat16() else "float32"
        program = description.folder / artefact.model_file
        # A network without weights has no second file, and Paddle wants its name nevertheless.
        weights = description.folder / (artefact.weights_file or f"{program.stem}.pdiparams")
        config = inference.Config(str(program), str(weights))
        config.disable_glog_info()
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        # Paddle 3 switches oneDNN on by itself where it can: say both ways.
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        if self.computed_in == BFLOAT16:
            config.enable_mkldnn_bfloat16()
        # Files of Paddle 3 (.json) are run by its new intermediate representation and executor only; without saying so
        # memory optimisation looks for the result of an old pass and fails.
        config.enable_new_ir(True)
        config.enable_new_executor(True)
        config.enable_memory_optim()
        with _rare_garbage_collection():
            self._predictor = inference.create_predictor(config)
            names = self._predictor.get_input_names()
            self._inputs = {name: self._predictor.get_input_handle(name) for name in names}
            self.input_names = list(self._inputs)
            self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
            # The executor reads the flag in its first run. 32 is the total stride: the smallest input that fits all.
            image = np.zeros([1, *(size if size > 0 else 32 for size in description.input_shape[1:])], np.float32)
            if isinstance(description, DetectionDescription):
                self.detect(image, np.ones([1, 2], np.float32))
            else:
                self.run(image)

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``NamedInputs``."""
        for name, values in inputs.items():
            self._inputs[name].reshape(values.shape)
            self._inputs[name].copy_from_cpu(np.ascontiguousarray(values, dtype=np.float32))
        self._predictor.run()
        return [output.copy_to_cpu() for output in self._outputs]


def _has_bfloat16() -> bool:
    """Whether oneDNN has kernels for bfloat16 on this processor."""
    from paddle.base import core

    return bool(core.supports_bfloat16())


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Sets the flag for the executors that start meanwhile; it belongs to the process, so it is put back."""
    import paddle

    before = paddle.get_flags(GARBAGE_FLAG)
    paddle.set_flags({GARBAGE_FLAG: GARBAGE_LIMIT})
    try:
        yield
    finally:
        paddle.set_flags(before)
