"""The command lines that measure, count, compare, convert, describe and serve: what they print and write."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from ppcls_ext.arch.flops import count_model
from ppcls_ext.deploy import benchmark as deploy_benchmark
from ppcls_ext.runtime.description import Artefact, DetectionDescription, OutputForm
from ppcls_ext.utils import workers
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json
from ppcls_ext.weights import read_weights
from tests.support.card_runs import NARROW
from tests.support.card_runs import write_run as write_card_run
from tests.support.detection_configs import write_config as write_detector
from tests.support.detectors import tiny_config
from tests.support.foreign_convnext import ForeignConvNeXt
from tests.support.runs import ROOT, output_of, refusal, run_here, small_config, start_tool, write_config
from tests.support.serving import export_colours, picture
from tests.support.torch_files import Call, write_archive

MINI = ["--model", "EConvNeXt_mini"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("benchmark.py", ["models", "--model", "EConvNeXt_minni"], "error: --model EConvNeXt_minni: unknown model"),
        ("benchmark.py", ["operators"], "error: operators: name models or exports with --model NAME|DIR ..."),
        ("compare_runs.py", ["."], "not the folder of a run"),
        ("count.py", [*MINI, "-o", "nrom=1"], "unknown argument 'nrom' (did you mean 'norm'?)"),
        ("count.py", [*MINI, "--phi", "50"], "phi 50: depth: must be from 0.01 to 16, got 9100"),
        ("profile_model.py", ["--model", "EConvNeXt_minni"], "unknown model 'EConvNeXt_minni'"),
        ("profile_model.py", ["-c", "none.yaml"], "none.yaml"),
        ("model_card.py", [], "name what the card is of: --model NAME, --run FOLDER"),
        ("serve.py", ["nowhere"], "error: nowhere: not an export folder"),
        ("serve.py", ["nowhere", "--host", "no.such.host.invalid"], "error: --host no.such.host.invalid: unknown"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_any_work(tmp_path: Path, tool: str, arguments: list[str], message: str) -> None:
    assert message in refusal(tmp_path, tool, *arguments)
    assert list(tmp_path.iterdir()) == []


# --- benchmark.py


def test_a_part_of_the_benchmark_writes_markdown_and_json(tmp_path: Path) -> None:
    options = ("--rounds", "1", "--output", "results/bench.md")
    printed = output_of("benchmark.py", "startup", *options, folder=tmp_path)
    page = (tmp_path / "results" / "bench.md").read_text()
    assert "| train.py --help |" in page and page.strip() in printed
    assert json.loads((tmp_path / "results" / "bench.json").read_text())["startup"]["seconds"]


@pytest.mark.slow
def test_the_inference_engines_are_compared(tmp_path: Path) -> None:
    printed = output_of("benchmark.py", "inference", "--size", "64", "--rounds", "1", folder=tmp_path)
    assert "| EConvNeXt_mini | 64 | paddle | fp32 | 2 | 1 |" in printed
    assert "as fast as the mean-pooled form (" in printed


@pytest.mark.slow
def test_training_steps_of_the_engines_are_compared(tmp_path: Path) -> None:
    printed = output_of("benchmark.py", "training", "--model", "ConvNeXtV1_tiny", "--rounds", "1", folder=tmp_path)
    assert "| ConvNeXtV1_tiny, 64 px, batch 16 |" in printed and "Not measured" not in printed


def test_training_steps_of_which_ours_fails_are_reported_all_the_same(tmp_path: Path, monkeypatch, capsys) -> None:
    def measure(subjects: list[workers.Subject], *_: object, **__: object) -> None:
        for subject in subjects:
            subject.seconds, subject.facts = [0.5], {"flops": 1e9}
            subject.failure = "the process ended with signal 9" if subject.arguments.get("kernels") == "auto" else None

    monkeypatch.setattr(workers, "measure_interleaved", measure)
    monkeypatch.delenv("PADDLECLAS_DIR", raising=False)
    assert run_here(tmp_path, "benchmark.py", "training", "--model", "EConvNeXt_mini")[0] == 0
    printed = capsys.readouterr().out
    assert "| EConvNeXt_mini, 32 px, batch 16 | - | 32.0 | - |" in printed
    assert "\n\nNot measured:\n\n- EConvNeXt_mini, 32 px, batch 16, ours: the process ended with signal 9\n" in printed
    line = refusal(tmp_path, "benchmark.py", "training", "--model", "EConvNeXt_mini", "Typo")
    assert line.startswith("error: training: --model Typo: must be among EConvNeXt_mini, ConvNeXtV1_tiny, PP-YOLOE-S")


def test_an_export_of_a_detector_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch, capsys) -> None:
    network = Artefact(format="paddle", precision="fp32", model_file="a.json", weights_file=None, checksums={})
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").touch()
        DetectionDescription(
            folder=tmp_path / name, model_name="Small", class_num=3, input_shape=[-1, 3, 64, 64], preprocess=[],
            classes=None, form=OutputForm(), artefacts=[network],
        ).write()  # fmt: skip

    def measure(subjects: list[workers.Subject], *_: object, **__: object) -> None:
        for subject in subjects:
            subject.seconds, subject.starts, subject.cores_while_waiting = [0.5], [1.0], [0.0]
            subject.facts = {"boxes": 3, "computed_in": "float32"}
            subject.failure = "no answer within 600 s" if subject.arguments.get("folder") == "bad" else None

    monkeypatch.setattr(deploy_benchmark, "measure_interleaved", measure)
    monkeypatch.chdir(tmp_path)
    assert run_here(tmp_path, "benchmark.py", "detection", "--model", "bad", "good", "--output", "bench.md")[0] == 0
    printed = capsys.readouterr().out
    good = "| good | 64 x 64 | paddle | fp32 | 2 | 1 | 500.0 | 500.0 | 500.0 | 500.0 | 3 | none needed |  |"
    assert good in printed and "| bad | 64 x 64 | paddle | fp32 | 2 | 1 | failed: no answer within 600 s |" in printed
    line = refusal(tmp_path, "benchmark.py", "detection", "--model", "bad")
    assert line.startswith("error: detection: nothing could be measured")


def test_parts_that_were_measured_are_kept_when_a_later_one_fails(tmp_path: Path, monkeypatch) -> None:
    from classification.data import pipeline_benchmark

    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    side = {"milliseconds": {"DecodeImage": 1.0}, "images_per_second": 9, "images_per_second_without_decoding": 9,
            "images": 1, "failed": 0}  # fmt: skip
    monkeypatch.setattr(pipeline_benchmark, "run_pipeline_benchmark", lambda *_: {"ours": side})
    monkeypatch.setattr(deploy_benchmark, "measure_models", fail)
    monkeypatch.delenv("PADDLECLAS_DIR", raising=False)
    assert refusal(tmp_path, "benchmark.py", "--output", "bench.md") == "error: the disk is full"
    assert "## Input pipeline" in (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert list(json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))) == ["machine", "pipeline"]


# --- convert_weights.py


def test_a_checkpoint_of_facebook_becomes_ours_and_then_timms(tmp_path: Path) -> None:
    foreign = ForeignConvNeXt("facebook", 2, dims=(40, 80, 160, 320), depths=(2, 2, 6, 2))
    write_archive(tmp_path / "atto.pt", {"model": foreign.weights, "model_ema": foreign.weights})
    ours = ("atto.pt", "ours.safetensors", "--model", "ConvNeXtV2_atto", "--from", "facebook")
    line = refusal(tmp_path, "convert_weights.py", *ours)
    assert "error: atto.pt: holds several sets of weights (model, model_ema): say which with --entry" in line
    printed = output_of("convert_weights.py", *ours, "--entry", "model_ema", "--drop-head", folder=tmp_path)
    assert "ours.safetensors: 138 weights, 3,387,400 numbers, fit ConvNeXtV2_atto" in printed
    assert "dropped 2 weights that the model does not use:\n    1 x head.weight" in printed
    export = ("ours.safetensors", "timm.safetensors", "--model", "ConvNeXtV2_atto", "--from", "ours", "--to", "timm")
    printed = output_of("convert_weights.py", *export, "--drop-head", folder=tmp_path)
    assert "fit ConvNeXtV2_atto, in the form of timm" in printed
    assert "head.norm.weight" in read_weights(tmp_path / "timm.safetensors")


def test_a_hostile_checkpoint_is_refused_in_one_line_and_nothing_runs(tmp_path: Path) -> None:
    hostile = {"model": {"w": np.ones(1, np.float32)}, "args": Call("os", "system", ("touch witness",))}
    write_archive(tmp_path / "hostile.pth", hostile)
    options = ("hostile.pth", "o.pdparams", "--model", "ConvNeXtV1_tiny", "--from", "facebook")
    line = refusal(tmp_path, "convert_weights.py", *options)
    assert line.startswith("error: hostile.pth: refused, nothing in it was executed: it asks for 'os.system'")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pth"]


# --- count.py


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_counts_of_a_detector_and_of_a_classifier_with_arguments(tmp_path: Path) -> None:
    header, rule, row = output_of("count.py", "-c", write_detector(tmp_path)).splitlines()
    assert header.startswith("| configuration |") and set(rule) <= set("|-: ")
    # PP-YOLOE-S with E-ConvNeXt-mini and two classes: a little less than with the eight of the sonar rows.
    cells = cells_of(row)
    assert (cells[0], cells[5], cells[6:]) == ("tiny", "22.74", ["training", ""])
    header, _, row = output_of("count.py", *MINI, "-o", "class_num=100", "csp=false", "--image-size", "32").splitlines()
    assert cells_of(header) == ["Arch", "image, px", "parameters, M", "FLOPs, G"]
    assert cells_of(row)[:2] == ["{name: EConvNeXt_mini, class_num: 100, csp: false}", "32"]
    # Far more than the 6.97 of the published form with as many classes, because blocks are twice as wide.
    assert 25 < float(cells_of(row)[2]) < 40


def test_the_path_from_convnext_to_econvnext() -> None:
    printed = output_of("count.py", "--path", "--image-size", "32", "-o", "depth_multiplier=0.3", "class_num=5")
    rows = [cells_of(line) for line in printed.splitlines()[2:]]
    assert [row[0] for row in rows] == [str(number) for number in range(8)]
    names = ["`{name: ConvNeXtV1_tiny}`", "`{name: EConvNeXt_mini}`", "`{name: EConvNeXt_tiny}`"]
    assert [rows[number][2] for number in (0, 5, 7)] == names
    # Cross-stage partial stages are what makes the difference.
    assert float(rows[3][3]) < 0.5 * float(rows[2][3])


def test_compound_scaling_prints_what_a_configuration_needs() -> None:
    growth = ("--alpha", "1.5", "--beta", "1.25", "--gamma", "1.5")
    printed = output_of("count.py", *MINI, "-o", "class_num=10", "--image-size", "64", "--phi", "0", "1", *growth)
    lines = printed.splitlines()
    first, second = (cells_of(line) for line in lines[2:4])
    assert (first[:4], first[6]) == (["0", "1", "1", "64"], "1.00")
    assert second[:4] == ["1", "1.5", "1.25", "96"] and float(second[6]) > 2
    assert "Arch: {name: EConvNeXt_mini, class_num: 10}" in lines
    assert "Arch: {name: EConvNeXt_mini, class_num: 10, depth_multiplier: 1.5, width_multiplier: 1.25}" in lines
    assert lines[-1] == "Global: {image_shape: [3, 96, 96]}"
    # Of a small network, too, it is the ratio of the counts, not of what is left of them in the table.
    counts = [count_model("EConvNeXt_mini", scaled, 32).flops for scaled in ({}, {"width_multiplier": 0.5})]
    line = output_of("count.py", *MINI, "--image-size", "32", "--width", "0.5").splitlines()[2]
    assert cells_of(line)[6] == f"{counts[1] / counts[0]:.2f}" == "0.27"


# --- profile_model.py


def test_two_networks_are_profiled_and_written(tmp_path: Path) -> None:
    page = tmp_path / "profile.md"
    printed = output_of(
        "profile_model.py", "--model", "ConvNeXtV2_atto", "EConvNeXt_mini", "--size", "32", "48", "--repeats", "1",
        "--output", page,
    )  # fmt: skip
    assert page.read_text() in printed and "eager mode" in printed
    networks = json.loads(page.with_suffix(".json").read_text())["networks"]
    assert [network["name"] for network in networks] == ["ConvNeXtV2_atto", "EConvNeXt_mini"]
    assert networks[0]["image_shape"] == [3, 32, 48]
    assert networks[0]["layers"][0]["output_shape"] == [1, 40, 8, 12]
    assert page.with_suffix(".csv").is_file() and page.with_suffix(".png").is_file()


# --- model_card.py


@pytest.mark.slow
def test_a_run_of_the_trainer_gets_its_card(tmp_path: Path) -> None:
    settings = {"Global__epochs": 1, "Arch__expansion_channels": NARROW, "Global__use_visualdl": False}
    output_of("train.py", "-c", write_config(tmp_path, small_config(tmp_path / "run", **settings), "small.yaml"))
    printed = output_of("model_card.py", "--run", tmp_path / "run", *MINI, "--output", tmp_path / "CARD.md")
    assert printed.splitlines()[-1] == f"written: {tmp_path / 'CARD.md'}, the card of EConvNeXt_mini"
    card = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    averaged = report["history"][0]["ema"]
    assert f"| top-1 | {100 * averaged['top1']:.2f} % |" in card and f"| loss | {averaged['loss']:.4f} |" in card
    assert f"**all** | {report['trainable_parameters']:,} |" in card
    assert "(resolved from `small.yaml`)" in card and "arXiv 2508.20955" in card
    assert str(tmp_path) not in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * averaged["top1"], 2)


def test_a_detectors_run_is_counted_at_the_size_of_its_deployment(tmp_path: Path) -> None:
    run = write_card_run(tmp_path / "run")
    line = refusal(tmp_path, "model_card.py", "--run", run, "--model", "ResNet50")
    assert "holds EConvNeXt_mini, not ResNet50" in line
    (run / "config.yaml").write_text(tiny_config(tmp_path).read_text(encoding="utf-8"), encoding="utf-8")
    record = {"epoch": 1, "eval": {"AP": 0.125, "per_class": {"cube": 0.375}}}
    write_json(run / "report.json", {"best": {"AP": 0.125, "epoch": 1}, "history": [record], "epochs": 1})
    output_of("model_card.py", "--run", run, "--output", tmp_path / "CARD.md")
    card = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    assert "# PPYOLOE with CSPResNet on data" in card and "12.50 %" in card and "| cube | 37.50 % |" in card
    assert "For one image of 64 x 64 px" in card and "| neck | " in card
    assert str(tmp_path) not in card

    write_json(run / "report.json", {"best": {"AP": 0.125}, "history": [1, 2]})
    line = refusal(tmp_path, "model_card.py", "--run", run, "--output", tmp_path / "OTHER.md")
    assert "report.json, config.yaml or state.json holds what no training writes" in line


# --- serve.py


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colours(tmp_path_factory.mktemp("colours") / "export")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_serves_until_it_is_stopped(colours: Path, number: int) -> None:
    process = start_tool("serve.py", colours, "--port", "0", "--threads", "1")
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " is at " in line:
                break
        match = re.search(r"^Colours \(classification, backend paddle\) is at (http://127.0.0.1:\d+/) ", lines[-1])
        assert match, lines
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{match[1]}predict", data=picture((220, 10, 20)), timeout=60) as response:
            assert json.load(response)["predictions"][0]["label"] == "red"
        if number == signal.SIGINT:
            port = match[1].rstrip("/").rpartition(":")[2]
            line = refusal(ROOT, "serve.py", colours, "--port", port, "--threads", "1")
            assert f"--port {port}: Address already in use; choose another port, or 0 for any" in line
        process.send_signal(number)
        lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
    finally:
        process.kill()
    assert process.returncode == 0, lines
    assert lines[-1] == "stopped\n" and "127.0.0.1 POST /predict 200\n" in lines
    assert "Traceback" not in "".join(lines)
