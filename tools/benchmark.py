"""Measures what the README claims: python tools/benchmark.py [inference|pipeline|startup|coco] --output FILE.md.

Without a subcommand it measures everything that needs no data of yours. ``models`` measures a list of models and
exports in every backend and precision, ``operators`` asks the engines what each operator takes, ``detection-data -c
CONFIG`` measures how fast the training data of a detector come in, ``detection --model EXPORT [EXPORT ...]`` the
latency of exported detectors. It writes a Markdown page and, beside it, the same as JSON (``models``: a chart, too).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.deploy.benchmark.matrix.run import Wish

DETECTION_DATA = "detection-data"
DETECTION = "detection"
MODELS = "models"
OPERATORS = "operators"
# These need something that only the user has, or an hour.
NEVER_IN_ALL = (DETECTION_DATA, DETECTION, MODELS, OPERATORS)
MATRIX = f"{MODELS}, {OPERATORS}"
NETWORK = "EConvNeXt_mini"
DETECTORS = tuple(
    ROOT / "configs" / "detection" / f"{name}_sonar.yml"
    for name in ("ppyoloe/ppyoloe_s_cspresnet", "ppyoloe/ppyoloe_s_econvnext_mini", "yolov10/yolov10_n",
                 "yolov10/yolov10_s", "yolov10/yolov10_s_econvnext_mini")
)  # fmt: skip
Section = tuple[dict[str, Any], str, Sequence[Sequence[str]]]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Measure inference, input pipeline, start-up and COCO evaluation on this machine."
    )
    parser.add_argument(
        "part", nargs="?", choices=[*PARTS, "all"], default="all",
        help=f"what to measure (default: all but {DETECTION_DATA}, needing -c, {DETECTION}, needing --model, "
        f"{MODELS} and {OPERATORS})",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, metavar="CONFIG",
                        help=f"{DETECTION_DATA}: configuration whose training data are loaded")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="Markdown page to write; FILE.json beside it")
    parser.add_argument("--photos", metavar="FOLDER", help="pipeline: JPEG files (default: from scikit-learn's two)")
    parser.add_argument("--paddleclas", metavar="CHECKOUT", default=os.environ.get("PADDLECLAS_DIR"),
                        help="pipeline: measure this PaddleClas too (default: $PADDLECLAS_DIR)")  # fmt: skip
    parser.add_argument("--model", nargs="+", metavar="NAME|DIR",
                        help=f"inference: the network (default: {NETWORK}); {DETECTION}: exports; {MODELS}, "
                        f"{OPERATORS}: names, NAME@SIZE, configurations of detectors or exports ({MODELS}: nine "
                        f"classifiers and {len(DETECTORS)} detectors)")  # fmt: skip
    parser.add_argument("--image", type=Path, metavar="FILE", help=f"{DETECTION}: picture (default: a generated one)")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS",
                        help=f"inference, {MATRIX}: side of the input")  # fmt: skip
    parser.add_argument("--threads", type=int, nargs="+", default=[2], metavar="N",
                        help=f"threads of each engine ({MATRIX}: one or several)")  # fmt: skip
    parser.add_argument("--backend", metavar="NAME[,NAME]", help=f"{MATRIX}: paddle, onnxruntime, openvino (all)")
    parser.add_argument("--precision", metavar="NAME[,NAME]", help=f"{MATRIX}: fp32, bf16, fp16, int8 (default: fp32, "
                        "and bf16 where a backend has it)")  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help=f"{MATRIX}: batch sizes")
    parser.add_argument("--quick", action="store_true", help=f"{MATRIX}: a few runs only, to see that all works")
    parser.add_argument("--cache", type=Path, default=Path("output/benchmark"), metavar="DIR",
                        help=f"{MATRIX}: keeps exports for the next run (output/benchmark)")  # fmt: skip
    parser.add_argument("--detections", type=int, default=20_000, metavar="N", help="coco: how many are evaluated")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="turns of each engine, passes, starts")
    return parser.parse_args()


def measure_inference(arguments: argparse.Namespace) -> Section:
    """Measures the exported network in several engines."""
    from ppcls_ext.deploy.benchmark.inference import MEAN_POOLED, ONNX_RUNTIME, markdown_rows, run_inference_benchmark
    from ppcls_ext.deploy.benchmark.report import verdict

    if arguments.model and len(arguments.model) > 1:
        raise UserError(f"inference: --model takes one network, got {len(arguments.model)}")
    network = arguments.model[0] if arguments.model else NETWORK
    result = run_inference_benchmark(network, arguments.size, one_thread_count(arguments), arguments.rounds)
    ratios = result["ratios"]
    lines = [
        f"Exported {result['model']}, {result['size']} px, batch 1, {result['threads']} threads, "
        f"{result['samples']} runs of each engine in processes of their own, by turns; equal outputs to 1e-4.",
        "",
        verdict(f"at least 2 times as fast as the mean-pooled form ({ratios[MEAN_POOLED]:.2f} times)",
                ratios[MEAN_POOLED] >= 2),
    ]  # fmt: skip
    if ONNX_RUNTIME in ratios:
        relative = 1 / ratios[ONNX_RUNTIME]
        lines.append(verdict(f"at most 1.5 times the latency of ONNX Runtime ({relative:.2f} times)", relative <= 1.5))
    return result, "\n".join(lines), markdown_rows(result)


def measure_pipeline(arguments: argparse.Namespace) -> Section:
    """Measures the operators of the ImageNet recipe on one core."""
    from classification.data.pipeline_benchmark import markdown_rows, run_pipeline_benchmark
    from ppcls_ext.deploy.benchmark.report import verdict

    result = run_pipeline_benchmark(arguments.photos, arguments.paddleclas, arguments.rounds)
    lines = ["Operators of the ImageNet recipe on JPEG photographs, one core, no worker processes."]
    if result.get("speedup"):
        lines += [
            "",
            verdict(f"at least 1.7 times PaddleClas's rate ({result['speedup']:.2f} times)", result["speedup"] >= 1.7),
            verdict(
                f"at least 2 times without decoding ({result['speedup_bare']:.2f} times)", result["speedup_bare"] >= 2
            ),
        ]
    else:
        lines.append("PaddleClas was not measured: set PADDLECLAS_DIR to a checkout to compare with.")
    return result, "\n".join(lines), markdown_rows(result)


def measure_startup(arguments: argparse.Namespace) -> Section:
    """Measures how soon tools/train.py answers."""
    from ppcls_ext.deploy.benchmark.report import verdict
    from ppcls_ext.deploy.benchmark.startup import markdown_rows, run_startup_benchmark

    result = run_startup_benchmark(ROOT / "tools" / "train.py", arguments.rounds)
    slowest = max(row["median"] for row in result["seconds"].values())
    text = f"Fresh processes, {result['repeats']} of each.\n\n" + verdict("under 1 second", slowest < 1)
    return result, text, markdown_rows(result)


def measure_coco(arguments: argparse.Namespace) -> Section:
    """Measures the COCO evaluation of synthetic detections."""
    from detection.evaluation.benchmark import FASTER, markdown_rows, run_coco_benchmark
    from ppcls_ext.deploy.benchmark.report import verdict

    result = run_coco_benchmark(arguments.detections, arguments.rounds)
    text = (
        f"{result['detections']:,} synthetic detections in {result['images']:,} images, {result['rounds']} runs of "
        "each by turns, from the annotation file to the twelve figures, which are equal to 4 decimals. Ours uses "
        "faster-coco-eval; it also checks the detections and adds figures by class, thresholds and the confusion "
        "matrix.\n\n"
    )
    speedup = result["speedup"][FASTER]
    text += verdict(f"faster-coco-eval beats pycocotools ({speedup:.1f} times)", speedup > 1)
    return result, text, markdown_rows(result)


def measure_detection_data(arguments: argparse.Namespace) -> Section:
    """Measures how fast the training data of a detector come in."""
    from detection.configuration import load_config
    from detection.data.loading_benchmark import markdown_rows, run_loading_benchmark

    if arguments.config is None:
        raise UserError(f"{DETECTION_DATA}: name a detection configuration with -c")
    result = run_loading_benchmark(load_config(arguments.config), arguments.rounds)
    text = (
        f"Training batches of {result['batch_size']} as {result['config']} makes them from {result['data']}: read, "
        f"decoded, augmented, collated; {result['rounds']} passes over {result['images']} images with each number of "
        "worker processes, by turns; no model runs beside them."
    )
    return result, text, markdown_rows(result)


def measure_detection(arguments: argparse.Namespace) -> Section:
    """Measures the latency of exported detectors."""
    from ppcls_ext.deploy.benchmark.detection import markdown_rows, run_detection_benchmark

    result = run_detection_benchmark(
        arguments.model or [], arguments.image, one_thread_count(arguments), arguments.rounds
    )
    height, width = result["image"]
    text = (
        f"Exported detectors on one image of {width} x {height} px, batch 1, {result['threads']} threads, "
        f"{result['samples']} runs of each in processes of their own, by turns. The choice of boxes is part of both "
        "figures; preprocessing begins with the decoded image."
    )
    return result, text, markdown_rows(result)


def measure_models(arguments: argparse.Namespace) -> Section:
    """Measures models and exports in every backend and precision."""
    from ppcls_ext.deploy.benchmark.matrix.report import markdown_rows, markdown_text
    from ppcls_ext.deploy.benchmark.matrix.run import run_matrix
    from ppcls_ext.preprocess import read_image

    result = run_matrix(matrix_of(arguments), None if arguments.image is None else read_image(arguments.image))
    return result, markdown_text(result), markdown_rows(result)


def measure_operators(arguments: argparse.Namespace) -> Section:
    """Asks the engines what each operator of a network takes."""
    from ppcls_ext.deploy.benchmark.matrix.operators import markdown_rows, markdown_text, profile_operators

    if not arguments.model:
        raise UserError(f"{OPERATORS}: name models or exports with --model NAME|DIR ...")
    wish = matrix_of(arguments)
    result = profile_operators(wish, wish.schedule.runs)
    return result, markdown_text(result), markdown_rows(result)


def matrix_of(arguments: argparse.Namespace) -> Wish:
    """Returns which models, backends, precisions, threads and batch sizes are asked for."""
    from ppcls_ext.deploy.benchmark.matrix.measure import QUICK, Schedule
    from ppcls_ext.deploy.benchmark.matrix.plan import DEFAULT_MODELS
    from ppcls_ext.deploy.benchmark.matrix.run import Wish

    return Wish(
        models=arguments.model,
        defaults=[*DEFAULT_MODELS, *map(str, DETECTORS)],
        backends=names_of(arguments.backend),
        precisions=names_of(arguments.precision),
        threads=arguments.threads,
        batches=arguments.batch,
        size=arguments.size,
        cache=arguments.cache,
        schedule=QUICK if arguments.quick else Schedule(rounds=arguments.rounds),
    )


def one_thread_count(arguments: argparse.Namespace) -> int:
    """Returns the number of ``--threads`` for parts that measure with one only."""
    if len(arguments.threads) > 1:
        raise UserError(f"{arguments.part}: --threads takes one number, got {len(arguments.threads)}")
    return arguments.threads[0]


def names_of(text: str | None) -> list[str] | None:
    """Returns the names of ``NAME,NAME``."""
    return None if text is None else [name.strip() for name in text.split(",")]


PARTS: dict[str, Callable[[argparse.Namespace], Section]] = {
    "inference": measure_inference,
    "pipeline": measure_pipeline,
    "startup": measure_startup,
    "coco": measure_coco,
    DETECTION_DATA: measure_detection_data,
    DETECTION: measure_detection,
    MODELS: measure_models,
    OPERATORS: measure_operators,
}
HEADINGS = {
    "inference": "Inference",
    "pipeline": "Input pipeline",
    "startup": "Start-up",
    "coco": "COCO evaluation",
    DETECTION_DATA: "Training data of a detector",
    DETECTION: "Latency of exported detectors",
    MODELS: "Models in every backend",
    OPERATORS: "Time of each operation",
}


def main() -> None:
    """Measures, prints the page and writes it."""
    arguments = parse_arguments()
    from ppcls_ext.deploy.benchmark.report import machine_line, markdown_page
    from ppcls_ext.utils.files import write_json, write_text
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import available_cores

    set_up_logging()
    for option in ("size", "threads", "batch", "detections", "rounds"):
        value = getattr(arguments, option)
        for number in value if isinstance(value, list) else [value]:
            if number < 1:
                raise UserError(f"--{option} must be at least 1, got {number}")
    if arguments.output and arguments.output.suffix != ".md":
        raise UserError(f"--output {arguments.output}: must end in .md; the figures go to a .json beside it")
    chosen = [part for part in PARTS if part not in NEVER_IN_ALL] if arguments.part == "all" else [arguments.part]
    results, sections = {}, {}
    for part in chosen:
        print(f"measuring: {part}", flush=True)
        results[part], text, rows = PARTS[part](arguments)
        sections[HEADINGS[part]] = (text, rows)
    page = markdown_page(sections, available_cores())
    print(f"\n{page}")
    if arguments.output:
        write_text(arguments.output, page)
        write_json(arguments.output.with_suffix(".json"), {"machine": machine_line(available_cores()), **results})
    if arguments.output and MODELS in results:
        from ppcls_ext.deploy.benchmark.matrix.chart import draw_chart

        if not draw_chart(results[MODELS], arguments.output.with_suffix(".png")):
            print("no chart: no measured row has a published accuracy")
    if MODELS in results and not any(row["status"] == "measured" for row in results[MODELS]["rows"]):
        raise UserError(f"{MODELS}: nothing could be measured; the reasons stand in the table above")


if __name__ == "__main__":
    run(main)
