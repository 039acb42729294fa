"""Worker processes start although OpenCV's threads are at work in the process that they are forked from."""

from __future__ import annotations

import subprocess
import sys

from tests.support.runs import ROOT

SCRIPT = """
import cv2, numpy as np
from ppcls_ext.check.workers import Workers

cv2.setNumThreads(4)
picture = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), dtype=np.uint8)
cv2.resize(cv2.GaussianBlur(picture, (31, 31), 5), (500, 500))
for _ in range(5):
    with Workers({}, 2) as workers:
        assert list(workers.map(abs, [-1, -2, -3])) == [1, 2, 3]
assert cv2.getNumThreads() == 4
print("done")
"""


def test_workers_start_after_opencv_used_its_threads() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout == "done\n", result.stderr
