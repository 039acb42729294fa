"""tools/compare_runs.py: runs beside each other, results files, and the tables of pages that are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ppcls_ext.utils.files import write_json
from tests.support.runs import ROOT, output_of, refusal, run_here, tiny_config, write_config, write_run

PAGE = """# A page

Prose before.

<!-- results: scenes -->
| an | old table |
<!-- end -->

Prose between.

<!-- results: scenes, by class -->
<!-- end -->
Prose after.
"""


def test_runs_are_compared_by_every_evaluated_epoch(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [(0.1, 0.2), (0.25, 0.5), (0.3, 0.6)])
    first, second, third = (one / "log.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    # The minutes count the epochs that were not evaluated.
    log = [first, second.replace('"eval"', '"other"'), third]
    (one / "log.jsonl").write_text("\n".join(log), encoding="utf-8")
    other = write_run(tmp_path / "other", [(0.3, 0.6)], cut='{"kind": "epo')
    printed = output_of("compare_runs.py", one, other, "--output", tmp_path / "runs.png")
    assert "| 1 | 0.100 | 0.200 | 3.000 | 1.0 | 2.0 |" in printed and "| 1 | 0.300 | 0.600 |" in printed
    assert "| 3 | 0.300 | 0.600 | 1.000 | 3.0 | 2.0 |" in printed and "| 2 |" not in printed
    assert Image.open(tmp_path / "runs.png").width > 600


def test_classifiers_are_compared_by_top1_but_not_with_detectors(tmp_path: Path) -> None:
    detector = write_run(tmp_path / "detector", [(0.1, 0.2)])
    classifier = write_run(tmp_path / "classifier", [(0.4, 0.9)])
    log = classifier / "log.jsonl"
    log.write_text(log.read_text().replace('"AP"', '"top1"').replace('"AP50"', '"top5"'), encoding="utf-8")
    printed = output_of("compare_runs.py", classifier, "--output", tmp_path / "runs.png")
    assert "| epoch | top1 | top5 | loss |" in printed and "| 1 | 0.400 | 0.900 |" in printed
    # Averaged weights are what a run gives: their figures stand for it.
    begin, epoch = log.read_text(encoding="utf-8").splitlines()[:2]
    averaged = {**json.loads(epoch), "ema": {"top1": 0.5, "top5": 0.95}}
    log.write_text(f"{begin}\n{json.dumps(averaged)}\n", encoding="utf-8")
    assert "| 1 | 0.500 | 0.950 |" in output_of("compare_runs.py", classifier)
    assert "compare runs of one kind" in refusal(tmp_path, "compare_runs.py", classifier, detector)
    none = write_run(tmp_path / "none", [])
    assert "no epoch was evaluated yet" in refusal(tmp_path, "compare_runs.py", none)
    log.write_text(log.read_text().replace('"top1"', '"top3"'), encoding="utf-8")
    assert "or none by AP or top-1 (topk of Metric.Eval)" in refusal(tmp_path, "compare_runs.py", classifier)


def result(row: str, seed: int, ap: float | None, **changes: Any) -> dict[str, Any]:
    """Returns what a results file of a detector with one epoch of two minutes holds."""
    figures = {"AP": ap, "AP50": 0.5, "AP_small": None, "AP_medium": 0.25, "AP_large": 0.75}
    training = {"loss": 2.0, "seconds": 120.0, "images_per_second": 4.0}
    part = {"name": "frames", "images": 306, "boxes": 1689, "sha256": "ab" * 32}
    return {
        "row": row, "kind": "detector", "configuration": "mini", "seed": seed, "epochs": 24, "batch_size": 8,
        "input_size": [256, 256], "evaluation": part, "training": part, "evaluation_version": 1,
        "machine": "Some CPU, cores: 2, threads: 1", "paddle": "3.2.2", "commit": None, "parameters": 11_650_000,
        "multiply_adds": 2_190_400_000, "weights": "EMA", "final": figures, "per_class": {"cube": ap, "a|b, %": 0.5},
        "latency": {}, "history": [{"epoch": 24, "train": training, "eval": figures}], **changes,
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with two tables, and the three results files that they are of."""
    folder = tmp_path / "results" / "scenes"
    folder.mkdir(parents=True)
    for name, content in {"2": result("10 %, masked", 0, 0.25), "10": result("100 %", 0, 0.5, parameters=7_670_000),
                          "11": result("10 %, masked", 1, 0.75)}.items():  # fmt: skip
        write_json(folder / f"{name}.json", content)
    file = tmp_path / "pretraining.md"
    file.write_text(PAGE, encoding="utf-8")
    return file


def test_tables_of_a_page_are_written_from_results_files_and_nothing_else(page: Path, capsys) -> None:
    assert run_here(page.parent, "compare_runs.py", "--page", page.name, "--check")[0] == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and "line 5: the table 'scenes' is not what results/scenes holds" in told[0]
    assert page.read_text(encoding="utf-8") == PAGE
    # The same data may lie in a folder of another name.
    elsewhere = json.loads((page.parent / "results/scenes/10.json").read_text(encoding="utf-8"))
    elsewhere["evaluation"]["name"] = "elsewhere"
    write_json(page.parent / "results/scenes/10.json", elsewhere)
    for _ in range(2):
        assert run_here(page.parent, "compare_runs.py", "--page", page.name)[0] == 0
    assert run_here(page.parent, "compare_runs.py", "--page", page.name, "--check")[0] == 0
    costs = "epochs | minutes of training | parameters, M | multiply-adds, M"
    line = ("Evaluated on 306 images and 1,689 boxes of frames, SHA-256 abababababab; 256 x 256 px; EMA weights; "
            "paddlepaddle 3.2.2; Some CPU, cores: 2, threads: 1.")  # fmt: skip
    first = f"""\
|  | seeds | AP | AP50 | AP, small | AP, medium | AP, large | {costs} |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 10 %, masked | 2 | 0.500 ± 0.354 | 0.500 ± 0.000 | - | 0.250 ± 0.000 | 0.750 ± 0.000 | 24 | 2.0 | 11.65 | 2190.4 |
| 100 % | 1 | 0.500 | 0.500 | - | 0.250 | 0.750 | 24 | 2.0 | 7.67 | 2190.4 |

{line}"""
    second = f"""\
| AP by class | seeds | cube | a\\|b, % |
| --- | ---: | ---: | ---: |
| 10 %, masked | 2 | 0.500 ± 0.354 | 0.500 ± 0.000 |
| 100 % | 1 | 0.500 | 0.500 |

{line}"""
    text = PAGE.replace("| an | old table |", first).replace("by class -->\n", f"by class -->\n{second}\n")
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"name": "other", "images": 280, "sha256": "cd" * 32}},
         "another evaluation (306 images and 1,689 boxes of frames, SHA-256 abababababab; 280 images of other, SHA"),
        ({"row": "10 %, masked", "epochs": 8, "seed": 2}, "seeds of the row '10 %, masked': another epochs (24; 8)"),
        ({"row": "10 %, masked", "parameters": 11_650_000}, "are both seed 0 of the row '10 %, masked'"),
    ],
)  # fmt: skip
def test_results_that_do_not_go_together_are_refused(page: Path, changes: dict[str, Any], message: str) -> None:
    write_json(page.parent / "results/scenes/10.json", result("100 %", 0, 0.5) | changes)
    for arguments in (["--page", page.name], ["results/scenes/2.json", "results/scenes/10.json"]):
        line = refusal(page.parent, "compare_runs.py", *arguments)
        assert line.startswith("error: results/scenes/2.json and results/scenes/10.json") and message in line
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results/scenes/10.json", '{"row": "a", "ki', "10.json: damaged ("),
        ("results/scenes/10.json", "{}", "10.json: no results file, or damaged: missing argument 'row'"),
        ("page.md", "# Nothing here\n", "has no table to write"),
        ("page.md", "<!-- results: scenes -->\n\ntext\n", "page.md, line 1: '<!-- results: scenes -->': write"),
        ("page.md", "\n<!-- results: sceens -->\n<!-- end -->\n", "line 2: results/sceens holds no results files"),
    ],
)
def test_a_damaged_results_file_or_page_is_one_line(page: Path, file: str, text: str, message: str) -> None:
    (page.parent / "page.md").write_text(PAGE, encoding="utf-8")
    (page.parent / file).write_text(text, encoding="utf-8")
    assert message in refusal(page.parent, "compare_runs.py", "--page", page.name, "page.md")
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name runs or results files to compare, or else a page with --page"),
        (["a", "--check"], "--check goes with --page"),
        (["a", "b", "--record", "c.json"], "--record: name a file for each of the 2 runs"),
        (["a.json", "--latency-chart", "c.txt"], "--latency-chart c.txt: must end in .png"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in refusal(tmp_path, "compare_runs.py", *arguments) and not list(tmp_path.iterdir())


def test_committed_results_are_drawn_without_the_runs(page: Path, capsys) -> None:
    latency = {"median_ms": 40.0, "machine": "Some CPU", "threads": 2, "ap": None}
    both = {"fp32": latency, "int8": latency | {"median_ms": 20.0, "ap": 0.49}}
    folder = page.parent / "results/scenes"
    command = ("compare_runs.py", *sorted(folder.glob("*.json")), "--output", "runs.png", "--latency-chart", "ms.png")
    assert "no results file holds a latency" in refusal(page.parent, *command)
    write_json(folder / "10.json", result("100 %", 0, 0.5, latency=both))
    assert run_here(page.parent, *command, "--overwrite")[0] == 0
    assert "10.json\n| epoch | AP | AP50 | loss |" in capsys.readouterr().out
    assert all(Image.open(page.parent / name).width > 600 for name in ("runs.png", "ms.png"))
    run_here(page.parent, "compare_runs.py", "--page", page)
    assert "| multiply-adds, M | fp32, ms | int8, ms | AP, int8 |" in page.read_text(encoding="utf-8")


def test_the_tables_of_our_pages_are_up_to_date() -> None:
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "\n<!-- results:" in page.read_text(encoding="utf-8")]
    assert not pages or run_here(ROOT, "compare_runs.py", "--page", *pages, "--check")[0] == 0


# Records of runs


def write_classifier_run(folder: Path, seed: int, **changes: Any) -> Path:
    """Writes the folder of a finished run of a tiny classifier with EMA."""
    write_run(folder, [(0.25, 0.5), (0.5, 0.75)])
    log = folder / "log.jsonl"
    text = log.read_text(encoding="utf-8").replace('"AP"', '"top1"').replace('"AP50"', '"top5"')
    log.write_text(text.replace('"eval"', '"ema": {"top1": 0.625, "top5": 1.0}, "eval"'), encoding="utf-8")
    write_config(folder, tiny_config(folder))
    report = {
        "config": str(folder / "somewhere/tiny.yaml"), "seed": seed, "epochs": 2, "paddle": "3.2.2", "processes": 2,
        "machine": "Some CPU, cores: 2, threads: 1", "source": {"commit": "c0ffee", "changed": True},
    }  # fmt: skip
    write_json(folder / "report.json", report | changes)
    return folder


def test_a_run_of_a_classifier_is_recorded_with_all_that_its_figures_need(tmp_path: Path) -> None:
    runs = [write_classifier_run(tmp_path / f"run_{seed}", seed) for seed in (0, 1)]
    files = [f"results/digits/{seed}.json" for seed in (0, 1)]
    assert run_here(tmp_path, "compare_runs.py", *runs, "--record", *files)[0] == 0
    first, second = (json.loads((tmp_path / file).read_text(encoding="utf-8")) for file in files)
    assert first == second | {"seed": 0} and str(tmp_path) not in (tmp_path / files[0]).read_text(encoding="utf-8")
    told = ("row", "kind", "configuration", "batch_size", "input_size", "commit", "weights", "final")
    assert [first[name] for name in told] == [
        "tiny", "classifier", "tiny", 16, [32, 32], "c0ffee and changes", "EMA", {"top1": 0.625, "top5": 1.0}
    ]  # fmt: skip
    assert (first["evaluation"]["name"], first["evaluation"]["images"]) == ("Digits", 20)
    assert first["evaluation"]["sha256"] != first["training"]["sha256"]
    assert first["parameters"] > 1000 and first["multiply_adds"] > 1000
    assert [epoch["eval"]["top1"] for epoch in first["history"]] == [0.25, 0.5]
    page = tmp_path / "page.md"
    page.write_text("<!-- results: digits -->\n<!-- end -->\n", encoding="utf-8")
    assert run_here(tmp_path, "compare_runs.py", "--page", page)[0] == 0
    text = page.read_text(encoding="utf-8")
    assert "| top-1, % | top-5, % | epochs |" in text and "| tiny | 2 | 62.50 ± 0.00 | 100.00 ± 0.00 | 2 |" in text
    # Other images are evaluated.
    other = write_classifier_run(tmp_path / "other", 2)
    config = yaml.safe_load((other / "config.yaml").read_text(encoding="utf-8"))
    config["DataLoader"]["Eval"]["dataset"]["seed"] = 1
    write_config(other, config)
    line = refusal(tmp_path, "compare_runs.py", other, "--record", "results/digits/2.json")
    assert "results/digits/0.json and results/digits/2.json cannot stand beside each other: another evaluation" in line
    assert not (tmp_path / "results/digits/2.json").exists()


def test_a_run_of_a_detector_is_recorded_with_its_latency(tmp_path: Path) -> None:
    from tests.support.detection_configs import write_config as write_detector
    from tests.support.detection_configs import write_data

    write_data(tmp_path)
    run = write_run(tmp_path / "run", [(0.25, 0.5)])
    log = run / "log.jsonl"
    log.write_text(log.read_text().replace('"AP": ', '"per_class": {"cube": 0.25}, "AP_small": null, "AP": '))
    write_detector(run, name="config.yaml")
    write_json(run / "report.json", {"config": "tiny.yml", "seed": 3, "epochs": 1, "paddle": "3.2.2"})
    row = {"model": "elsewhere", "status": "measured", "precision": "fp32", "ap": None, "median_ms": 12.5, "threads": 2}
    rows = [row, row | {"model": "run/export"}]
    write_json(tmp_path / "ms.json", {"machine": "Some CPU", "detection": {"rows": rows}})
    command = ("compare_runs.py", "run", "--record", "results/a/b.json", "--row", "10 %", "--latency", "ms.json")
    assert run_here(tmp_path, *command)[0] == 0
    content = json.loads((tmp_path / "results/a/b.json").read_text(encoding="utf-8"))
    told = ("row", "seed", "batch_size", "input_size", "weights")
    assert [content[name] for name in told] == ["10 %", 3, 2, [64, 64], "plain"]
    assert content["machine"] is None and content["per_class"] == {"cube": 0.25}
    assert [content["evaluation"][name] for name in ("name", "images", "boxes")] == ["data", 2, 2]
    assert content["latency"] == {"fp32": {"median_ms": 12.5, "machine": "Some CPU", "threads": 2, "ap": None}}
    assert content["parameters"] > 1e6 and content["multiply_adds"] > 1e6
    write_json(tmp_path / "ms.json", {"machine": "Some CPU", "detection": {"rows": rows[:1]}})
    assert "none of its exports lies in run; it has elsewhere" in refusal(tmp_path, *command)
    write_json(tmp_path / "ms.json", {"machine": "Some CPU", "detection": {"exports": rows}})
    assert "an older version may have: measure again" in refusal(tmp_path, *command)
