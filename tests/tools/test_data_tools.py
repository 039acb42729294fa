"""The command lines of ``check_data.py`` and ``prepare_data.py``: exit status, lines and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.frames import Frames
from tests.support.pictures import folder_config, write_class_folders
from tests.support.raw_data import Prepared, corners, sides, write_image, write_voc
from tests.support.runs import refusal, run_here, run_tool, small_config, write_config


def test_the_tools_run_as_scripts(tmp_path: Path) -> None:
    train = write_class_folders(tmp_path / "train")
    config = folder_config(tmp_path, train, write_class_folders(tmp_path / "val", images=3, first_seed=500))
    result = run_tool("check_data.py", "-c", config, "--output", tmp_path / "out", "--workers", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "training: 24 images in 2 classes" in result.stdout
    assert "no errors, no warnings" in result.stdout
    assert (tmp_path / "out" / "overview.png").is_file()
    result = run_tool("prepare_data.py", "synthetic", "--output", tmp_path / "set", "--size", "10")
    assert (result.returncode, result.stderr) == (2, "error: --size must be at least 64, got 10\n")
    assert not (tmp_path / "set").exists()


def test_errors_in_boxes_leave_with_1_and_one_line_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = Frames(tmp_path)
    for number in range(5):
        frames.train["annotations"][number]["bbox"][2] = 0.0
    frames.image("val_00.png").unlink()
    arguments = ("-c", frames.write_config(), "--output", tmp_path / "out", "-o", "num_classes=4", "--workers")
    command = (tmp_path, "check_data.py", *arguments)
    assert "argument --workers: must be 0, 1, 2, ..., got 'few'" in refusal(*command, "few")
    assert run_here(*command, "0")[0] == 1
    printed = capsys.readouterr().out.splitlines()
    assert "training: 18 images with 31 boxes of 3 classes" in printed
    assert "validation: 6 images with 12 boxes of 3 classes" in printed
    lines = [line for line in printed if line.startswith("error")]
    assert len(lines) == 3
    assert "num_classes is 4" in lines[0]
    assert "5 training boxes without area" in lines[1] and "and 2 more" in lines[1]
    assert "train_00.png (annotation 1 (cube): corners 10 8 10 32 enclose nothing)" in lines[1]
    assert "1 validation image whose file does not exist" in lines[2]
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert [finding["count"] for finding in report["findings"][:3]] == [1, 5, 1]
    frames.annotations("val").unlink()
    assert run_here(*command, "0")[0] == 1
    assert f"{frames.annotations('val')}: the annotation file does not exist" in capsys.readouterr().out


def test_samples_are_spread_over_the_classes_and_hold_the_pixels_of_the_data_set(tmp_path: Path) -> None:
    config = write_config(tmp_path, small_config(tmp_path / "run"))
    output = tmp_path / "samples"
    for count in (15, 13):  # the second call replaces what the first wrote
        options = ("samples", "-c", config, "--count", str(count), "--output", output)
        assert run_here(tmp_path, "prepare_data.py", *options)[0] == 0
    files = sorted(output.rglob("*.png"))
    assert len(files) == 13
    per_class = [len(list((output / str(digit)).glob("*.png"))) for digit in range(10)]
    assert max(per_class) - min(per_class) <= 1

    from classification.data.datasets import Digits

    digits = Digits(split="val", holdout=0.01, size=32)
    for file in files:
        image, label = digits.load(int(file.stem))
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
        assert file.parent.name == str(label)


def test_sonar_from_raw_folder_to_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, output = tmp_path / "raw", tmp_path / "dataset" / "sonar"
    for number in range(8):
        write_image(raw / "Images" / f"{number}.bmp", seed=number)
        write_voc(raw / "Annotations" / f"{number}.xml", corners("Human_Body", 5, 6, 25, 36))
    write_voc(raw / "Annotations" / "3.xml", sides("cube", -5, 6, 25, 36), sides("cylindr", 5, 6, 25, 36))
    (raw / "Annotations" / "4.xml").write_text("<annotation>")
    command = (tmp_path, "prepare_data.py", "sonar", raw, "--classes", "sonar", "--output", output)
    assert run_here(*command) == (0, "")
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "images: 8 found = 7 kept + 1 rejected + 0 left out",
        "boxes: 8 read = 6 kept + 1 repaired + 1 rejected",
        "boxes were written as xmin ymin xmax ymax (6), x y w h (2)",
        "class 'Human_Body' taken for 'human body' (6 boxes)",
        "repaired clipped_box: 1",
        "rejected malformed_xml: 2",
        "rejected unknown_class: 1",
        "  Annotations/3.xml: object 2 (cylindr): unknown class 'cylindr' (did you mean 'cylinder'?)",
        f"wrote {output} (images: 7 linked)",
    ):
        assert line in lines
    Prepared(output).check()
    assert (output / "classes.txt").read_text().splitlines()[3] == "human body"


def test_a_sheet_shows_training_samples_as_the_network_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classification import augmented

    drawn = []
    draw = augmented.draw_sheet
    monkeypatch.setattr(augmented, "draw_sheet", lambda cards, title: drawn.append(cards) or draw(cards, title))
    train = write_class_folders(tmp_path / "train")
    config = folder_config(tmp_path, train, train)
    command = (tmp_path, "check_data.py", "-c", config, "--output", tmp_path / "out", "--augmented", "-o")
    for _ in range(2):
        assert run_here(*command, "DataLoader.Train.sampler.shuffle=False")[0] == 0
    first, again = drawn
    # The first samples of each batch, twice the same. Nothing but their size was changed.
    assert all((one.image == other.image).all() for one, other in zip(first, again, strict=True))
    resized = Image.open(train / "class_0" / "00.png").resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(first[0].image.astype(int) - np.asarray(resized)).mean() < 8
    assert (first[0].labels, first[0].scores) == (["class_0"], [1.0])
    mixing = "DataLoader.Train.dataset.batch_transform_ops=[{MixupOperator: {alpha: 0.8}}]"
    assert run_here(*command, mixing)[0] == 0
    shares = [card.scores for card in drawn[2]]
    assert any(len(share) == 2 for share in shares) and all(sum(share) == pytest.approx(1) for share in shares)
    # The one image of a rare class comes as often as in training.
    for file in sorted((train / "class_1").iterdir())[1:]:
        file.unlink()
    assert run_here(*command, "Global.class_sampling=full")[0] == 0
    assert sum(card.labels == ["class_1"] for card in drawn[3]) > 1


def test_a_sheet_of_a_detector_shows_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detection import augmented

    drawn = []
    draw = augmented.draw_boxes
    monkeypatch.setattr(augmented, "draw_boxes", lambda *given, **more: drawn.append(given) or draw(*given, **more))
    steps = "[{Decode: {}}, {Resize: {target_size: [40, 48], keep_ratio: false, interp: 2}}]"
    batch = "[{NormalizeImage: {is_scale: true}}, {Permute: {}}, {PadGT: {}}]"
    changes = [f"TrainReader.sample_transforms={steps}", f"TrainReader.batch_transforms={batch}"]
    config = Frames(tmp_path).write_config()
    command = (tmp_path, "check_data.py", "-c", config, "--output", tmp_path / "out", "--augmented", "-o")
    assert run_here(*command, *changes, "TrainReader.shuffle=false", "TrainReader.batch_size=2")[0] == 0
    assert (tmp_path / "out" / "augmented.png").is_file()
    assert len(drawn) == 8
    picture, boxes, names = drawn[0]
    image = np.asarray(Image.open(tmp_path / "images" / "train_00.png").resize((48, 40), Image.Resampling.BICUBIC))
    assert np.abs(picture.astype(int) - image).mean() < 8
    np.testing.assert_allclose(boxes, [[5, 4, 20, 16], [25, 20, 39, 36]], atol=0.01)
    assert names == ["cube", "ball"]
    changes[1] = "TrainReader.batch_transforms=[{Permute: {}}]"
    assert "needs PadGT" in refusal(*command, *changes)
