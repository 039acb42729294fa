"""Compares the rows of a study: writes ``comparison.md`` (from ``study.md.j2``), two tables as CSV and two pictures."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classification.config import Config
from classification.study import Row, Run, Study
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path, write_text
from ppcls_ext.utils.history import evaluation_of, read_history
from ppcls_ext.utils.machine import available_cores, processor_name
from ppcls_ext.utils.tables import render_markdown
from ppcls_ext.utils.workers import measure_interleaved

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
# What makes an earlier figure of the time of an image that of the same network.
NETWORK = ["row", "model", "arguments", "image_shape"]
LATENCY = ["median_ms", "p90_ms", "no_latency", "measured_on"]
# With so few classes top-5 tells hardly anything; it stays out of the page.
FEW_CLASSES = 10
METRICS = ["top1", "top5", "loss", "best_top1", "training_seconds"]


def write_report(
    study: Study, runs: Sequence[Run], threads: int | None, failures: Sequence[tuple[Run, str]] = (), rounds: int = 12
) -> Path:
    """Gathers what the runs left, counts and times the networks, writes the comparison and returns its page.

    Args:
        study, runs: the study and all its runs, finished or not.
        threads: to measure the time of an image with; None keeps what an earlier comparison measured of the same
            networks.
        failures: runs that failed in this session, with the reason.
        rounds: of the measurement of that time.

    Raises:
        UserError: not one of the networks can be built.
    """
    import pandas

    costs, left_out = count_costs({row.name: row.config for row in study.rows})
    if not costs:
        raise UserError("\n".join(left_out.values()))
    built = [row for row in study.rows if row.name in costs]
    epochs, results = gather([run for run in runs if run.row.name in costs])
    rows = compare(built, costs, results)
    table = study.output_dir / "comparison.csv"
    latencies = pandas.DataFrame(columns=["row", *LATENCY])
    if threads is not None:
        latencies = measure_latencies({row.name: row.config for row in built}, threads, rounds)
    elif table.is_file():
        try:
            # A row may be called 0.5, or NA.
            latencies = pandas.read_csv(table, float_precision="round_trip", dtype=dict.fromkeys(NETWORK, str),
                                        keep_default_na=False, na_values=[""])[NETWORK + LATENCY]
        except (ValueError, KeyError) as error:
            logger.warning("%s: no earlier times of an image to keep: %s", table, error)
    rows = rows.merge(latencies, how="left", on=[name for name in NETWORK if name in latencies])
    for file, frame in ((table, rows), (study.output_dir / "runs.csv", results)):
        with atomic_path(file) as temporary:
            frame.to_csv(temporary, index=False)
    prefix, unit = ("G", 1e9) if rows["flops"].max() >= 1e8 else ("M", 1e6)
    lines, records = (
        frame.astype(object).where(frame.notna(), None).to_dict("records") for frame in (rows, results)
    )  # fmt: skip
    for line, row in zip(lines, built, strict=True):
        line["given"] = row.config.arch.arguments
    page = study.output_dir / "comparison.md"
    text = render_markdown(
        "classification", "study.md.j2",
        {"clock": lambda seconds: "-" if seconds is None else clock(seconds),
         "number": lambda value, form, factor=1: "-" if value is None else form % (value * factor)},
        study=study, rows=lines, runs=records, prefix=prefix, unit=unit, failures=failures, left_out=left_out,
        images=results["images"].dropna().unique().tolist(), epochs=results["epochs"].unique().tolist(),
        published=[row for row in built if row.published is not None],
        averages=any(row.config.ema is not None for row in built), bases={line["base"] for line in lines} - {None},
        top5=max(row.config.arch.class_num for row in built) > FEW_CLASSES,
        pictures=draw(study, rows, results, epochs, prefix, unit),
    )  # fmt: skip
    write_text(page, text)
    return page


def count_costs(configs: Mapping[str, Config]) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Returns ``parameters`` and ``flops`` by row, and of each network that cannot be built, why."""
    from classification.build import build_network
    from ppcls_ext.arch.flops import count_flops, count_parameters

    costs, reasons = {}, {}
    for name, config in configs.items():
        try:
            model = build_network(config)
        except UserError as error:
            reasons[name] = str(error)
            continue
        model.eval()
        flops = count_flops(model, [1, *config.run.image_shape])
        costs[name] = {"parameters": count_parameters(model), "flops": flops}
    return costs, reasons


def gather(runs: Sequence[Run]) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Reads what runs left, from their reports or, while they are under way, from their logs.

    Returns:
        One line for each epoch (``row``, ``seed``, ``epoch``, ``top1``, ``top5``, ``loss``, ``train_loss``), and one
        for each run (``row``, ``seed``, ``state``, ``epoch``, ``epochs``, metrics of the last evaluated epoch,
        ``best_top1``, ``training_seconds``). Accuracies are shares.
    """
    import pandas

    epochs, results = [], []
    for run in runs:
        report = run.report
        history = report["history"] if report else read_history(run.folder)
        own = {"row": run.row.name, "seed": run.seed}
        for record in history:
            metrics = {name: evaluation_of(record).get(name) for name in ("top1", "top5", "loss")}
            epochs.append({**own, "epoch": record["epoch"], "train_loss": record["train"]["loss"], **metrics})
        evaluated = [evaluation_of(record) for record in history if evaluation_of(record)]
        last = evaluated[-1] if evaluated else {}
        results.append(own | {
            "state": "finished" if report else "under way" if history else "not begun",
            "epoch": history[-1]["epoch"] if history else 0,
            "epochs": run.config.run.epochs,
            **{name: last.get(name) for name in ("top1", "top5", "loss", "images")},
            "best_top1": max((metrics["top1"] for metrics in evaluated if "top1" in metrics), default=None),
            "training_seconds": sum(record["train"]["seconds"] for record in history),
        })  # fmt: skip
    columns = ["row", "seed", "epoch", "train_loss", "top1", "top5", "loss"]
    # Metrics that no run has are missing numbers, not objects.
    frame = pandas.DataFrame(epochs, columns=columns).astype(dict.fromkeys(columns[3:], float))
    return frame, pandas.DataFrame(results).astype(dict.fromkeys([*METRICS, "images"], float))


def compare(rows: Sequence[Row], costs: Mapping[str, Any], results: pandas.DataFrame) -> pandas.DataFrame:
    """Returns one line for each row: what it is and costs, and means over its finished seeds.

    ``n`` counts those seeds; each mean has a column ``..._deviation`` beside it. Ablations have differences to their
    base: ``top1_difference``, and ``parameters_change`` and ``flops_change`` as shares.
    """
    import pandas

    table = pandas.DataFrame([
        {
            "row": row.name,
            # The network of a base may be one that cannot be built.
            "base": row.base if row.base in costs else None,
            "change": ", ".join(row.differences) or None,
            "config": row.config_file, "model": row.config.arch.name,
            "arguments": json.dumps(row.config.arch.arguments, default=str),
            "image_shape": " x ".join(map(str, row.config.run.image_shape)),
            **costs[row.name],
            "published_top1": row.published.top1 if row.published else None,
            "published_parameters": row.published.parameters if row.published else None,
        }
        for row in rows
    ]).set_index("row")  # fmt: skip
    finished = results[results["state"] == "finished"].groupby("row")
    table["n"] = finished["top1"].count().reindex(table.index, fill_value=0)
    for name in METRICS:
        table[name] = finished[name].mean()
        table[f"{name}_deviation"] = finished[name].std()
    base = table.reindex(table["base"])
    table["top1_difference"] = table["top1"] - base["top1"].to_numpy()
    for name in ("parameters", "flops"):
        table[f"{name}_change"] = table[name] / base[name].to_numpy() - 1
    return table.reset_index()


def measure_latencies(configs: Mapping[str, Config], threads: int, rounds: int = 12) -> pandas.DataFrame:
    """Measures the exported networks (random weights, batch 1, Paddle Inference with oneDNN) in interleaved rounds.

    Returns:
        ``row`` and the columns ``LATENCY``: median and 90th percentile of one image in milliseconds, why there are
        none, and how it was measured.
    """
    import paddle
    import pandas

    from classification.build import build_network
    from ppcls_ext.deploy.benchmark import export_subject, generated_image
    from ppcls_ext.deploy.export import export_classifier

    subjects, lines = {}, []
    with tempfile.TemporaryDirectory(prefix="study-") as temporary:
        for name, config in configs.items():
            folder = Path(temporary) / name
            try:
                if config.infer is None:
                    raise UserError(config.document.problem("Infer", "is missing: an export needs Infer.transforms"))
                paddle.seed(0)
                export_classifier(
                    build_network(config), folder, model_name=config.arch.name, class_num=config.arch.class_num,
                    image_shape=config.run.image_shape, preprocess=config.infer.transforms,
                )  # fmt: skip
                subjects[name] = export_subject(folder, generated_image(), "paddle", "fp32", threads)
            except UserError as error:
                logger.warning("%s: no time of an image: %s", name, error)
                lines.append({"row": name, "no_latency": str(error)})
        logger.info("measuring the time of an image of %d networks in interleaved rounds", len(subjects))
        measure_interleaved(list(subjects.values()), rounds)
    how = f"median of {rounds} interleaved rounds, {threads} thread(s); {processor_name()}, {available_cores()} cores"
    for name, subject in subjects.items():
        if subject.failure is None:
            figures = {key: value for key, value in subject.statistics().items() if key in LATENCY}
            lines.append({"row": name, "measured_on": how, **figures})
        else:
            lines.append({"row": name, "no_latency": subject.failure})
    return pandas.DataFrame(lines, columns=["row", *LATENCY])


def draw(
    study: Study, rows: pandas.DataFrame, results: pandas.DataFrame, epochs: pandas.DataFrame, prefix: str, unit: float
) -> list[tuple[str, str]]:
    """Draws curves by epoch, and top-1 against what it costs; returns title and file of each picture.

    A curve is the mean over the finished seeds, else the run that has come furthest.
    """
    from ppcls_ext.utils.plots import Line, Point, draw_study_curves, draw_tradeoff

    pictures = []
    panels: dict[str, list[Line]] = {}
    for name, base in zip(rows["row"], rows["base"], strict=True):
        own = results[(results["row"] == name) & (results["epoch"] > 0)]
        if own.empty:
            continue
        shown = own[own["state"] == "finished"]
        label = f"{name} (n={len(shown)})"
        if shown.empty:
            shown = own.nlargest(1, "epoch")
            label = f"{name} (epoch {shown['epoch'].iloc[0]} of {shown['epochs'].iloc[0]})"
        by_epoch = epochs[(epochs["row"] == name) & epochs["seed"].isin(shown["seed"])].groupby("epoch")
        for title, column, scale in (
            ("top-1 of the evaluation images (%)", "top1", 100.0),
            ("top-5 of the evaluation images (%)", "top5", 100.0),
            ("loss of the evaluation images", "loss", 1.0),
            ("loss of the training images", "train_loss", 1.0),
        ):
            # Epochs that all of these runs have; one run has no deviation.
            curve = by_epoch[column].agg(["mean", "std", "count"]).query(f"count == {len(shown)}").fillna(0) * scale
            style = {"linewidth": 2.0} if base is None else {"linewidth": 1.0, "linestyle": "--"}
            line = Line(label, curve.index.tolist(), curve["mean"].tolist(), style, curve["std"].tolist())
            panels.setdefault(title, []).append(line)
    if panels:
        title = f"Study {study.name}: mean over seeds, band of one standard deviation"
        draw_study_curves(panels, study.output_dir / "curves.png", title)
        pictures.append(("top-1, top-5 and loss of all rows by epoch", "curves.png"))
    measured = rows[rows["top1"].notna()]
    if len(measured) > 1:
        points: dict[str, list[Point]] = {}
        for line in measured.to_dict("records"):
            style = ("ablation", "tab:orange", "s") if line["base"] else ("row", "tab:blue", "o")
            deviation = 100 * line["top1_deviation"] if line["n"] > 1 else None
            costs = {f"FLOPs ({prefix})": line["flops"] / unit, "parameters (M)": line["parameters"] / 1e6,
                     "ms/image": line["median_ms"]}  # fmt: skip
            for title, cost in costs.items():
                if cost == cost:  # Not every network's time was measured.
                    point = Point(line["row"], cost, 100 * line["top1"], deviation, *style)
                    points.setdefault(title, []).append(point)
        draw_tradeoff(points, study.output_dir / "accuracy_cost.png", f"Study {study.name}", "top-1 (%)")
        pictures.append(("top-1 by FLOPs, parameters and time of an image", "accuracy_cost.png"))
    return pictures
