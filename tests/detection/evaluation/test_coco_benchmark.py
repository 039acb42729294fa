"""The benchmark of COCO evaluation: the same figures from all ways, and numbers that fit together."""

from __future__ import annotations

import pytest

from detection.evaluation import benchmark
from ppcls_ext.utils.errors import UserError


def test_all_ways_agree_and_are_timed():
    result = benchmark.run_coco_benchmark(detections=1500, rounds=1)
    assert (result["detections"], result["images"]) == (1500, 38)
    assert set(result["seconds"]) == {"pycocotools", "faster-coco-eval", "evaluate_detections"}
    assert result["largest_difference"] < 5e-5
    assert result["speedup"]["pycocotools"] == 1
    head, *rows = benchmark.markdown_rows(result)
    assert len(rows) == 3
    assert all(len(row) == len(head) for row in rows)


def test_synthetic_data_are_seeded():
    first, second, other = (benchmark.synthetic_coco(400, seed) for seed in (0, 0, 1))
    assert first == second
    assert first[1] != other[1]
    assert len(first[1]) == 400


def test_unequal_figures_are_an_error(monkeypatch):
    monkeypatch.setattr(benchmark, "_by_faster_coco_eval", lambda file, records: benchmark.np.full(12, 0.5))
    with pytest.raises(UserError, match="differ from those of pycocotools"):
        benchmark.run_coco_benchmark(detections=200, rounds=1)
