"""The benchmark of the input pipeline measures what it says; how fast is not tested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from classification.data.pipeline_benchmark import NAMES, generated_photos, markdown_rows, run_pipeline_benchmark
from ppcls_ext.common.errors import UserError
from ppcls_ext.preprocess import decode_image


def test_generated_photos_are_ordinary_jpegs() -> None:
    photos = generated_photos(3)
    assert generated_photos(3) == photos
    assert {max(decode_image(photo).shape) for photo in photos} == {500}


def test_measures_each_operator(tmp_path: Path) -> None:
    for number, photo in enumerate(generated_photos(2)):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
    results = run_pipeline_benchmark(tmp_path, repeats=2)
    ours = results["ours"]
    assert ours["images"] == 4
    assert ours["failed"] == 0
    assert list(ours["milliseconds"]) == NAMES
    assert all(value > 0 for value in ours["milliseconds"].values())
    assert ours["images_per_second_without_decoding"] > ours["images_per_second"] > 0
    assert "paddleclas" not in results
    assert [len(row) for row in markdown_rows(results)] == [2] * (len(NAMES) + 4)


def test_failures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(generated_photos(1)[0])
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    ours = run_pipeline_benchmark(tmp_path, repeats=1)["ours"]
    assert (ours["images"], ours["failed"]) == (1, 1)
    assert "not an image" in ours["failure"]


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        run_pipeline_benchmark(tmp_path, repeats=1)
    with pytest.raises(UserError, match="is not a PaddleClas checkout"):
        run_pipeline_benchmark(None, tmp_path, repeats=1)


@pytest.mark.skipif("PADDLECLAS_DIR" not in os.environ, reason="PADDLECLAS_DIR names no PaddleClas checkout")
def test_measures_paddleclas_beside_ours() -> None:
    results = run_pipeline_benchmark(None, os.environ["PADDLECLAS_DIR"], repeats=1)
    assert results["paddleclas"]["images"] > 0
    assert results["speedup"] > 0
    assert [len(row) for row in markdown_rows(results)] == [3] * (len(NAMES) + 4)
