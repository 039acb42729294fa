"""No tool writes onto what it reads or onto a person's files: refused before any work, by one rule for all tools."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs
from tests.support.cifar import cifar_archive
from tests.support.deployment import export_small
from tests.support.detection_configs import write_config as write_detector
from tests.support.detection_configs import write_data
from tests.support.raw_data import corners, write_image, write_voc
from tests.support.runs import content_of, refusal, run_here, tiny_config, write_config, write_run

READ, FOREIGN, INSIDE = "is read by this command", "--overwrite", "which is read, too"
INFER = "--model export --input"
RUN = "Global.pretrained_model=run/checkpoints/best"


def write_pictures(folder: Path, *names: str) -> None:
    """Writes small pictures of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((24, 32, 3), 40 * number, np.uint8)).save(folder / name)


TEACHER = '{"teacher":{"name":"EConvNeXt_mini","pretrained":"run/checkpoints/best"},"cache":"%s"}'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that tools read, and files and folders of a person."""
    root = tmp_path_factory.mktemp("project")
    write_pictures(root / "photos", "a.jpg", "a.png", "b.jpg")
    os.link(root / "photos" / "b.jpg", root / "hard.jpg")
    (root / "notes.txt").write_text("mine")
    (root / "CARD.md").write_text("mine")
    (root / "notes.csv").write_text("mine")
    (root / "notes.json").write_text("{}")
    for name in ("full", "runs/tiny"):
        (root / name).mkdir(parents=True)
        (root / name / "notes.txt").write_text("mine")
    # Another project's export has the same name for its description.
    (root / "theirs").mkdir()
    (root / "theirs" / "inference.yml").write_text("Global: {model_name: theirs}\n")
    (root / "export").mkdir()
    (root / "export" / "inference.yml").write_text("format_version: 2\n")
    write_detector(root)
    write_data(root)
    for name in ("one", "two"):
        write_pictures(root / "classes" / name, "1.png", "2.png")
    folder = {"name": "ImageFolder", "image_root": "classes", "transform_ops": []}
    config = tiny_config(root / "out", DataLoader__Eval__dataset=folder, DataLoader__Train__dataset=folder)
    config["Global"]["output_dir"] = "out"
    write_config(root, config, "folder.yaml")
    best = root / "run" / "checkpoints" / "best"
    best.mkdir(parents=True)
    (best / "model.pdparams").write_bytes(b"weights")
    (best / "state.json").write_text("{}")
    write_run(root / "runs" / "one", [(0.1, 0.2)])
    (root / "runs" / "one" / "report.json").write_text("{}")
    write_pictures(root / "runs" / "one", "curves.png")
    for number in range(3):
        write_image(root / "raw" / "Images" / f"{number}.png", seed=number)
        write_voc(root / "raw" / "Annotations" / f"{number}.xml", corners("cube", 5, 6, 25, 36))
    cifar_archive(root / "all.tar.gz", images=8)
    (root / "all_link.tar.gz").symlink_to("all.tar.gz")
    (root / "weights.safetensors").write_bytes(b"weights")
    study = {"output_dir": "full", "seeds": [0], "rows": [{"name": "one", "config": "folder.yaml"}]}
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    return root


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("infer.py", f"{INFER} photos --save photos", READ),
        ("infer.py", f"{INFER} photos/b.jpg --save hard.jpg --overwrite", READ),
        ("infer.py", f"{INFER} photos --save photos/drawn", INSIDE),
        ("infer.py", f"{INFER} photos --save full", FOREIGN),
        ("infer.py", f"{INFER} photos --json new.json --coco ./new.json", "--json is written there too"),
        ("eval.py", "-c tiny.yml --json tiny.yml --overwrite", READ),
        ("eval.py", f"-c folder.yaml -o {RUN} --json run/checkpoints/best/state.json --overwrite", INSIDE),
        ("train.py", "-c folder.yaml -o Global.output_dir=classes --overwrite", READ),
        ("train.py", "-c tiny.yml -o save_dir=runs --resume auto", FOREIGN),
        ("train.py", f"-c folder.yaml -o Distillation={TEACHER % 'full'}", FOREIGN),
        ("export_model.py", f"-c folder.yaml -o {RUN} --output run/checkpoints/best", READ),
        ("export_model.py", f"-c folder.yaml -o {RUN} Global.save_inference_dir=theirs", FOREIGN),
        ("quantize_model.py", "--model export --images photos --output photos", READ),
        ("prune_model.py", f"-c folder.yaml -o {RUN} --ratio 0.3 --output classes --overwrite", READ),
        ("check_data.py", "-c folder.yaml --output classes/two", INSIDE),
        ("prepare_data.py", "cifar100 all.tar.gz --every 2 --output all_link.tar.gz --overwrite", READ),
        ("compare_runs.py", "runs/one --output runs/one/curves.png --overwrite", INSIDE),
        ("convert_weights.py", "weights weights.safetensors --model EConvNeXt_mini --from ours --overwrite", READ),
        ("model_card.py", "--model EConvNeXt_mini", FOREIGN),
        ("profile_model.py", "--model EConvNeXt_mini --output notes.md", "notes.csv: exists"),
        ("benchmark.py", "operators --model EConvNeXt_mini --cache full", FOREIGN),
        ("study.py", "study.yaml", FOREIGN),
    ],
)  # fmt: skip
def test_no_tool_replaces_what_is_read_or_a_persons_own(project: Path, tool: str, arguments: str, message: str) -> None:
    before = content_of(project)
    line = refusal(project, tool, *arguments.split())
    assert line.startswith("error: ") and message in line
    assert content_of(project) == before


def test_a_missing_input_is_left_to_its_reader(project: Path) -> None:
    claim_outputs([Output("--output", project / "export", "export")], [project / "export" / "missing.pdparams"])


def test_the_same_command_runs_again_until_a_person_edits_the_result(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", [(0.1, 0.2)])
    command = (tmp_path, "compare_runs.py", run, "--output", "runs.png")
    for _ in range(2):
        assert run_here(*command)[0] == 0
    write_pictures(tmp_path, "runs.png")
    assert "--overwrite" in refusal(*command)
    assert Image.open(tmp_path / "runs.png").width == 32
    assert run_here(*command, "--overwrite")[0] == 0
    assert Image.open(tmp_path / "runs.png").width > 600


def test_pictures_of_one_name_are_drawn_apart_and_again(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", "a.jpg", "a.png", "A.bmp", "b.png")
    write_pictures(tmp_path / "more", "b.png")
    export_small(tmp_path / "export")
    before = content_of(tmp_path / "photos")
    command = ("infer.py", "--model", "export", "--input", "photos", "more", "--save", "drawn", "--json", "out.json")
    for _ in range(2):
        assert run_here(tmp_path, *command)[0] == 0
    names = sorted(path.name.casefold() for path in (tmp_path / "drawn").iterdir())
    assert names == ["a.png", "a_2.png", "a_3.png", "b.png", "b_2.png"]
    assert content_of(tmp_path / "photos") == before
    (tmp_path / "drawn" / "b.png").write_bytes(b"mine")
    assert "--overwrite" in refusal(tmp_path, *command)
    assert (tmp_path / "drawn" / "b.png").read_bytes() == b"mine"


def test_a_run_may_begin_where_only_other_results_of_ours_lie(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "check").mkdir(parents=True)
    (run / "check" / "check.json").write_text("{}")
    (run / "figures.json.txt").write_text("written by a tool")
    record_outputs([run / "figures.json.txt"])
    claim_outputs([Output("Global.output_dir", run, "run")])
    with pytest.raises(UserError, match="is not an export"):
        claim_outputs([Output("--output", run, "export")])
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not the folder of a run"):
        claim_outputs([Output("Global.output_dir", run, "run")])


def test_what_a_person_put_into_a_folder_of_ours_is_not_lost(tmp_path: Path) -> None:
    written = {"export": ("inference.yml", "inference_int8.onnx"), "samples": (".samples", "cat/000012.png")}
    for kind, files in written.items():
        folder = tmp_path / kind
        for name in (*files, "figures.json", ".DS_Store"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("format_version: 2\n")
        record_outputs([folder / "figures.json"])
        outputs = [Output("--output", folder, kind)]
        claim_outputs(outputs)
        (folder / "frames").mkdir()
        (folder / "frames" / "1.png").write_text("mine")
        if kind == "export":
            claim_outputs([Output("--output", folder, "extended export")])
        with pytest.raises(UserError, match=r"holds what its tool did not write \(frames/1\.png\); choose another"):
            claim_outputs(outputs)
        claim_outputs(outputs, overwrite=True)
        assert (tmp_path / f"{kind}_before" / "frames" / "1.png").read_text() == "mine" and not folder.exists()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of cargo\n")
    with pytest.raises(UserError, match="is not a cache of exports"):
        claim_outputs([Output("--cache", tmp_path / "target", "cache")])


def test_a_run_is_continued_with_the_configuration_that_it_wrote(tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path))
    outputs = [Output("Global.output_dir", tmp_path, "run")]
    with pytest.raises(UserError, match="config.yaml is read"):
        claim_outputs(outputs, [config], overwrite=True)
    (tmp_path / "log.jsonl").write_text("")
    claim_outputs(outputs, [config])


def test_the_other_processes_of_a_run_leave_the_check_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.log").write_text("the first process has begun")
    outputs = [Output("Global.output_dir", tmp_path, "run")]
    with pytest.raises(UserError):
        claim_outputs(outputs)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    claim_outputs(outputs)
