"""The benchmark of the input pipeline measures what it says; how fast is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from classification.data.pipeline_benchmark import pipeline_table, run_pipeline_benchmark, sample_photos
from ppcls_ext.utils.errors import UserError

NAMES = ["DecodeImage", "RandCropImage", "RandFlipImage", "TimmAutoAugment", "NormalizeImage", "RandomErasing"]


def test_measures_each_operator_and_counts_failures(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(sample_photos(1)[0])
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    results = run_pipeline_benchmark(tmp_path, repeats=2)
    ours = results["ours"]
    assert (ours["images"], ours["failed"]) == (2, 2)
    assert "no picture" in ours["failure"]
    assert list(ours["milliseconds"]) == NAMES
    assert all(value > 0 for value in ours["milliseconds"].values())
    assert ours["images_per_second_without_decoding"] > ours["images_per_second"] > 0
    assert "paddleclas" not in results
    assert len(pipeline_table(results).splitlines()) == len(NAMES) + 5


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        run_pipeline_benchmark(tmp_path, repeats=1)
    with pytest.raises(UserError, match="is not a PaddleClas checkout"):
        run_pipeline_benchmark(None, tmp_path, repeats=1)
