"""Measures what the README claims: python tools/benchmark.py [inference|pipeline|startup] --output FILE.md.

Without a part it measures everything that needs no data of yours. ``models`` measures a list of models and exports in
every backend and precision, ``operators`` asks the engines what each operator takes, ``detection-data -c CONFIG``
measures how fast the training data of a detector come in, ``detection --model EXPORT [EXPORT ...]`` the latency of
exported detectors, ``training`` steps of training on the CPU in several engines. It writes a Markdown page and, beside
it, the same as JSON (``models``: a chart, too).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ppcls_ext.utils.command_line import add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from ppcls_ext.deploy.benchmark import BenchmarkRequest

NETWORK = "EConvNeXt_mini"
DETECTORS = tuple(
    ROOT / "configs" / "detection" / f"{name}_sonar.yml"
    for name in ("ppyoloe/ppyoloe_s_cspresnet", "ppyoloe/ppyoloe_s_econvnext_mini", "yolov10/yolov10_n",
                 "yolov10/yolov10_s", "yolov10/yolov10_s_econvnext_mini")
)  # fmt: skip
# Model, side of the images, images of a step.
TRAINING_CLASSIFIERS = (
    (NETWORK, 32, 16), (NETWORK, 64, 32), (NETWORK, 224, 8), ("ConvNeXtV1_tiny", 64, 16)
)  # fmt: skip
TRAINING_DETECTORS = {
    name: ROOT / "configs" / "detection" / "marine_debris" / f"{file}.yml"
    for name, file in {"PP-YOLOE-S + CSPResNet": "ppyoloe_s_cspresnet",
                       "PP-YOLOE-S + mini": "ppyoloe_s_econvnext_mini", "YOLOv10-N": "yolov10_n"}.items()
}  # fmt: skip
# In the order of the table; the others are compared with the first.
ENGINES = ("ours", "Paddle's kernels", "PaddleClas", "PyTorch")
# What was measured, for JSON, and the section of the page.
Section = tuple[dict[str, Any], str]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Measure inference, input pipeline and start-up on this machine."
    )
    add = parser.add_argument
    left_out = [part for part, (_, _, in_all) in PARTS.items() if not in_all]
    both = "models, operators"
    add("part", nargs="?", choices=[*PARTS, "all"], default="all",
        help=f"what to measure (default: all but {', '.join(left_out)}, which need more options or an hour)")
    add("-c", "--config", type=Path, metavar="CONFIG",
        help="detection-data: configuration whose training data are loaded")
    add("--output", type=Path, metavar="FILE.md", help="Markdown page to write; FILE.json beside it")
    add("--photos", metavar="FOLDER", help="pipeline: JPEG files (default: from scikit-learn's two)")
    add("--paddleclas", metavar="CHECKOUT", default=os.environ.get("PADDLECLAS_DIR"),
        help="pipeline, training: measure this PaddleClas too (default: $PADDLECLAS_DIR)")
    add("--model", nargs="+", metavar="NAME|DIR",
        help=f"inference: the network (default: {NETWORK}); detection: exports; {both}: names, NAME@SIZE, "
        f"configurations of detectors or exports (models: nine classifiers and {len(DETECTORS)} detectors)")
    add("--image", type=Path, metavar="FILE", help="detection, models: picture (default: a generated one)")
    add("--size", type=int, default=224, metavar="PIXELS", help=f"inference, {both}: side of the input")
    add("--threads", type=int, nargs="+", default=[2], metavar="N",
        help=f"threads of each engine ({both}: one or several)")
    add("--backend", metavar="NAME[,NAME]", help=f"{both}: paddle, onnxruntime, openvino (all)")
    add("--precision", metavar="NAME[,NAME]",
        help=f"{both}: fp32, bf16, fp16, int8 (default: fp32, and bf16 where a backend has it)")
    add("--batch", type=int, nargs="+", default=[1], metavar="N", help=f"{both}: batch sizes")
    add("--quick", action="store_true", help=f"{both}: a few runs only, to see that all works")
    add("--cache", type=Path, default=Path("output/benchmark"), metavar="DIR",
        help=f"{both}: keeps exports for the next run (output/benchmark)")
    add("--rounds", type=int, default=12, metavar="N", help="rounds of each engine, passes, starts")
    add_overwrite_argument(parser)
    return parser.parse_args()  # fmt: skip


def claim(arguments: argparse.Namespace) -> None:
    """Makes sure that the page, what lies beside it and the cache may be written."""
    from ppcls_ext.utils.outputs import Output, claim_outputs

    named = [arguments.config, arguments.photos, arguments.image, *(arguments.model or [])]
    suffixes = (".md", ".json", ".png") if arguments.part == "models" else (".md", ".json")
    outputs = [Output("--output", arguments.output.with_suffix(suffix)) for suffix in suffixes if arguments.output]
    if arguments.part in ("all", "inference", "models", "operators"):
        outputs.append(Output("--cache", arguments.cache, "cache"))
    claim_outputs(outputs, [path for path in named if path is not None], overwrite=arguments.overwrite)


def verdict(text: str, met: bool) -> str:
    """Returns a line that says whether a target was met."""
    return f"- {text}: **{'met' if met else 'NOT met'}**"


def measure_inference(arguments: argparse.Namespace) -> Section:
    """Measures one network in Paddle Inference and ONNX Runtime, as it is and pooled as in the paper's code."""
    from ppcls_ext.deploy.benchmark import MEAN_POOLED, BenchmarkRequest, measure_models, models_page

    network = arguments.model[0] if arguments.model else NETWORK
    pooled = "@".join([network.partition("@")[0] + MEAN_POOLED, *network.split("@")[1:]])
    result = measure_models(BenchmarkRequest(
        models=[network, pooled], backends=["paddle", "onnxruntime"], precisions=["fp32"],
        threads=arguments.threads, size=arguments.size, cache=arguments.cache, rounds=arguments.rounds,
        starts=1,
    ))  # fmt: skip
    medians = {(row["model"], row["backend"]): row.get("median_ms") for row in result["rows"]}
    lines = []
    for title, other, limit in (
        ("at least 2 times as fast as the mean-pooled form", (pooled, "paddle"), 2),
        ("at most 1.5 times the latency of ONNX Runtime", (network, "onnxruntime"), 1 / 1.5),
    ):
        own = medians[network, "paddle"]
        if own and medians[other]:
            ratio = medians[other] / own
            lines.append(verdict(f"{title} ({ratio if limit > 1 else 1 / ratio:.2f} times)", ratio >= limit))
    return result, "\n".join(lines) + "\n\n" + models_page(result)


def measure_pipeline(arguments: argparse.Namespace) -> Section:
    """Measures the operators of the ImageNet recipe on one core."""
    from classification.data.pipeline_benchmark import pipeline_table, run_pipeline_benchmark

    result = run_pipeline_benchmark(arguments.photos, arguments.paddleclas, arguments.rounds)
    text = "Operators of the ImageNet recipe on JPEG photographs, one core, no worker processes."
    if result.get("speedup"):
        speedup, bare = result["speedup"], result["speedup_bare"]
        text += "\n\n" + verdict(f"at least 1.7 times PaddleClas's rate ({speedup:.2f} times)", speedup >= 1.7)
        text += "\n" + verdict(f"at least 2 times without decoding ({bare:.2f} times)", bare >= 2)
    else:
        text += "\nPaddleClas was not measured: set PADDLECLAS_DIR to a checkout to compare with."
    return result, f"{text}\n\n{pipeline_table(result)}"


def measure_startup(arguments: argparse.Namespace) -> Section:
    """Measures how soon tools/train.py shows its help, and an error in a configuration, as fresh processes."""

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        config = Path(folder) / "broken.yaml"
        config.write_text("Arch:\n  name: EConvNeXt_mini\n  clas_num: 10\n", encoding="utf-8")
        seconds: dict[str, dict[str, float]] = {}
        for title, options, status in (("train.py --help", ["--help"], 0),
                                       ("train.py, error in the configuration", ["-c", str(config)], 2)):  # fmt: skip
            times = []
            for _ in range(arguments.rounds):
                start = time.perf_counter()
                command = [sys.executable, str(ROOT / "tools" / "train.py"), *options]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                times.append(time.perf_counter() - start)
                if done.returncode != status:
                    raise UserError(f"startup: {title} left with status {done.returncode}: {done.stderr}")
            seconds[title] = {"median": statistics.median(times), "slowest": max(times)}
    of_help, of_error = (row["median"] for row in seconds.values())
    text = f"Fresh processes, {arguments.rounds} of each.\n\n"
    text += verdict("the help in under 1 second", of_help < 1) + "\n"
    text += verdict("an error in under 5 seconds", of_error < 5)
    rows = [[title, f"{row['median']:.2f}", f"{row['slowest']:.2f}"] for title, row in seconds.items()]
    table = markdown_table(["command", "median, s", "slowest, s"], rows)
    return {"repeats": arguments.rounds, "seconds": seconds}, f"{text}\n\n{table}"


def measure_detection_data(arguments: argparse.Namespace) -> Section:
    """Measures how fast the training data of a detector come in."""
    if arguments.config is None:
        raise UserError("detection-data: name a detection configuration with -c")
    from detection.benchmarks import measure_loading
    from detection.configuration import load_config

    result = measure_loading(load_config(arguments.config), arguments.rounds)
    text = (
        f"Training batches of {result['batch_size']} as {result['config']} makes them from {result['data']}: read, "
        f"decoded, augmented, collated; {result['rounds']} passes over {result['images']} images with each number of "
        "worker processes, in interleaved rounds; no model runs beside them."
    )
    rows = [[f"{number} (a thread)" if number == 0 else number, f"{row['median']:.0f}", f"{row['best']:.0f}"]
            for number, row in result["images_per_second"].items()]  # fmt: skip
    return result, f"{text}\n\n{markdown_table(['worker processes', 'images/s, median', 'images/s, best'], rows)}"


def measure_models(arguments: argparse.Namespace) -> Section:
    """Measures models and exports in every backend and precision, or exported detectors as they are deployed."""
    from detection.benchmarks import export_detector
    from ppcls_ext.deploy.benchmark import measure_models, models_page

    if arguments.part == "detection" and not arguments.model:
        raise UserError("detection: name the exports of detectors with --model DIR [DIR ...]")
    result = measure_models(request_of(arguments), image_of(arguments), export_detector)
    return result, models_page(result)


def measure_operators(arguments: argparse.Namespace) -> Section:
    """Asks the engines what each operator of a network takes."""
    if not arguments.model:
        raise UserError("operators: name models or exports with --model NAME|DIR ...")
    from detection.benchmarks import export_detector
    from ppcls_ext.deploy.operator_profile import operators_page, profile_operators

    result = profile_operators(request_of(arguments), export_detector)
    return result, operators_page(result)


def measure_training(arguments: argparse.Namespace) -> Section:
    """Measures training steps on the CPU: our kernels, Paddle's, PaddleClas's engine and PyTorch, interleaved."""
    from classification.training_benchmark import has_torch, open_paddle, open_paddleclas, open_torch
    from detection.benchmarks import open_training_step
    from ppcls_ext.deploy.benchmark import fastest_product, peak_row, peak_subjects
    from ppcls_ext.utils.workers import Subject, measure_interleaved

    threads = arguments.threads[0]
    names = dict.fromkeys([name for name, *_ in TRAINING_CLASSIFIERS] + [*TRAINING_DETECTORS])
    chosen = arguments.model or names
    for name in chosen:
        if name not in names:
            raise UserError(f"training: --model {name}: must be among {', '.join(names)}")
    classifiers: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "ours": (open_paddle, {"kernels": "auto"}), "Paddle's kernels": (open_paddle, {"kernels": "paddle"})
    }  # fmt: skip
    if arguments.paddleclas:
        classifiers["PaddleClas"] = open_paddleclas, {"checkout": arguments.paddleclas}
    if has_torch():
        classifiers["PyTorch"] = open_torch, {}
    detectors = {engine: (open_training_step, classifiers[engine][1]) for engine in ENGINES[:2]}
    tasks = [(name, size, batch, {"name": name}, classifiers) for name, size, batch in TRAINING_CLASSIFIERS]
    tasks += [(name, 256, 8, {"config_file": str(file)}, detectors) for name, file in TRAINING_DETECTORS.items()]
    subjects = {
        (f"{name}, {size} px, batch {batch}", engine):
            Subject(f"{name}, {engine}", opener, {"size": size, "batch": batch, **network, **options}, threads)
        for name, size, batch, network, engines in tasks if name in chosen
        for engine, (opener, options) in engines.items()
    }  # fmt: skip
    peaks = peak_subjects([threads], bfloat16=False)
    measure_interleaved([*peaks, *subjects.values()], arguments.rounds, runs=6, longest_turn=4.0)
    peak = fastest_product([peak_row(subject) for subject in peaks], "float32", threads)
    measured, failed = {}, []
    for (task, engine), subject in subjects.items():
        if subject.failure is not None:
            failed.append(f"- {task}, {engine}: {subject.failure}")
            continue
        figures = subject.statistics()
        measured[task, engine] = {
            "task": task, "engine": engine,
            "images_per_second": 1000 * subject.arguments["batch"] / figures["median_ms"], **figures, **subject.facts,
            "gflops_per_second": subject.facts["flops"] / figures["median_ms"] / 1e6,
            "peak_memory_mb": None if subject.peak_bytes is None else subject.peak_bytes / 1e6,
        }  # fmt: skip
    rows = []
    for task in dict.fromkeys(task for task, _ in subjects):
        speeds = [measured.get((task, engine), {}).get("images_per_second", math.nan) for engine in ENGINES]
        cells = [f"{speed:.1f}" for speed in speeds] + [f"{speeds[0] / speed:.2f}" for speed in speeds[1:]]
        cells.append(f"{measured.get((task, 'ours'), {}).get('gflops_per_second', math.nan):.0f}")
        rows.append([task, *("-" if cell == "nan" else cell for cell in cells)])
    columns = ["step", *(f"{engine}, images/s" for engine in ENGINES), *(f"ours / {engine}" for engine in ENGINES[1:]),
               "GFLOP/s of ours"]  # fmt: skip
    page = [
        f"Forward, loss, backward and AdamW on random images, {threads} threads, each engine in a process of its own, "
        f"{arguments.rounds} interleaved rounds, medians. The product of two large matrices reaches {peak or 0:.0f} "
        "GFLOP/s.",
        markdown_table(columns, rows),
        *(["Not measured:", "\n".join(failed)] if failed else []),
    ]
    return {"steps": [*measured.values()], "threads": threads, "peak_gflops_per_second": peak}, "\n\n".join(page)


def request_of(arguments: argparse.Namespace) -> BenchmarkRequest:
    """Returns which models, backends, precisions, threads and batch sizes are asked for."""
    from ppcls_ext.deploy.benchmark import DEFAULT_MODELS, BenchmarkRequest
    from ppcls_ext.runtime import BACKENDS

    def names(text: str | None) -> list[str] | None:
        return None if text is None else [name.strip() for name in text.split(",")]

    amount = {"rounds": 2, "runs": 3, "starts": 1} if arguments.quick else {"rounds": arguments.rounds}
    return BenchmarkRequest(
        models=arguments.model or [*DEFAULT_MODELS, *map(str, DETECTORS)],
        backends=names(arguments.backend) or tuple(BACKENDS), precisions=names(arguments.precision),
        threads=arguments.threads, batches=arguments.batch, size=arguments.size, cache=arguments.cache,
        deployed=arguments.part == "detection", **amount,
    )  # fmt: skip


def image_of(arguments: argparse.Namespace) -> Any:
    """Returns the picture of ``--image``, ``uint8`` RGB ``[H, W, 3]``, or None."""
    from ppcls_ext.preprocess import read_image

    return arguments.image and read_image(arguments.image)


# By name: heading, function, and whether it runs without being asked for: the others need something that only the user
# has, or an hour.
PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], Section], bool]] = {
    # The first: whether --photos and --paddleclas can be used shows at once.
    "pipeline": ("Input pipeline", measure_pipeline, True),
    "inference": ("Inference", measure_inference, True),
    "startup": ("Start-up", measure_startup, True),
    "detection-data": ("Training data of a detector", measure_detection_data, False),
    "detection": ("Latency of exported detectors", measure_models, False),
    "models": ("Models in every backend", measure_models, False),
    "operators": ("Time of each operation", measure_operators, False),
    "training": ("Training on the CPU", measure_training, False),
}


def main() -> None:
    """Measures, prints the page and writes it."""
    arguments = parse_arguments()
    from ppcls_ext.utils.files import write_json, write_text
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import machine_line
    from ppcls_ext.utils.outputs import record_outputs

    set_up_logging()
    for option in ("size", "threads", "batch", "rounds"):
        value = getattr(arguments, option)
        for number in value if isinstance(value, list) else [value]:
            if number < 1:
                raise UserError(f"--{option} must be at least 1, got {number}")
    if len(arguments.threads) > 1 and arguments.part not in ("models", "operators"):
        raise UserError(f"{arguments.part}: --threads takes one number, got {len(arguments.threads)}")
    if len(arguments.model or ()) > 1 and arguments.part in ("all", "inference"):
        raise UserError(f"{arguments.part}: --model takes one network, got {len(arguments.model)}")
    if arguments.output and arguments.output.suffix != ".md":
        raise UserError(f"--output {arguments.output}: must end in .md; the figures go to a .json beside it")
    claim(arguments)
    results, sections = {}, ["# Benchmark", f"{machine_line()}."]
    for part, (heading, measure, in_all) in PARTS.items():
        if arguments.part == part or (arguments.part == "all" and in_all):
            print(f"measuring: {part}", flush=True)
            results[part], section = measure(arguments)
            sections += [f"## {heading}", section]
            if arguments.output:
                # Each part at once: a later one may fail.
                write_text(arguments.output, "\n\n".join(sections) + "\n")
                figures = arguments.output.with_suffix(".json")
                write_json(figures, {"machine": machine_line(), **results})
                record_outputs([arguments.output, figures])
    print("\n" + "\n\n".join(sections) + "\n")
    if "models" in results and arguments.output:
        from ppcls_ext.deploy.benchmark import draw_models

        chart = arguments.output.with_suffix(".png")
        if draw_models(results["models"], chart):
            record_outputs([chart])
        else:
            print("no chart: no measured row has a published accuracy")
    for part in ("models", "detection"):
        if part in results and not any(row["status"] == "measured" for row in results[part]["rows"]):
            raise UserError(f"{part}: nothing could be measured; the reasons stand in the table above")


if __name__ == "__main__":
    run(main)
