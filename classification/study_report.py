"""Compares the rows of a study: writes ``comparison.md``, two tables as CSV and two pictures beside the runs."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classification.config import Config, load_config
from classification.study import Failure, Run, Study, evaluation_of
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path, write_text
from ppcls_ext.utils.history import read_history
from ppcls_ext.utils.machine import available_cores, processor_name
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import measure_interleaved

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
# What makes an earlier figure of the time of an image that of the same network.
NETWORK = ["row", "model", "arguments", "image_shape"]
LATENCY = ["median_ms", "p90_ms", "no_latency", "measured_on"]
METRICS = ["top1", "top5", "loss", "best_top1", "training_seconds"]


def write_report(
    study: Study, runs: Sequence[Run], threads: int | None, failures: Sequence[Failure] = (), rounds: int = 12
) -> Path:
    """Gathers what the runs left, counts and times the networks, and writes the comparison.

    Args:
        study: the study.
        runs: all its runs, finished or not.
        threads: to measure the time of an image with; None keeps what an earlier comparison measured of the same
            networks.
        failures: runs that failed in this session.
        rounds: of the measurement of that time.

    Returns:
        The page.

    Raises:
        UserError: not one of the networks can be built.
    """
    import pandas

    configs = {row.name: load_config(row.config_file, row.changes) for row in study.rows}
    costs, left_out = count_costs(configs)
    if not costs:
        raise UserError("\n".join(left_out.values()))
    epochs, results = gather([run for run in runs if run.row.name in costs])
    rows = compare(study, configs, costs, results)
    table = study.output_dir / "comparison.csv"
    if threads is not None:
        latencies = measure_latencies({name: configs[name] for name in costs}, threads, rounds)
        rows = rows.join(pandas.DataFrame.from_dict(latencies, orient="index", columns=LATENCY))
    else:
        rows = rows.reset_index()
        for name in LATENCY:
            rows[name] = None
        if table.is_file():
            try:
                earlier = pandas.read_csv(table)[NETWORK + LATENCY]
                rows = rows.drop(columns=LATENCY).merge(earlier, how="left", on=NETWORK)
            except (ValueError, KeyError) as error:
                logger.warning("%s: no earlier times of an image to keep: %s", table, error)
        rows = rows.set_index("row")
    for file, frame in ((table, rows), (study.output_dir / "runs.csv", results.set_index("row"))):
        with atomic_path(file) as temporary:
            frame.to_csv(temporary)
    pictures = draw(study, rows, results, epochs)
    notes = [f"- Failed: {each.run.label}: {each.reason}" for each in failures]
    notes += [f"- Not compared: {name}: {reason}" for name, reason in left_out.items()]
    page = study.output_dir / "comparison.md"
    write_text(page, markdown_page(study, configs, rows, results, notes, pictures))
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
        for each run (``row``, ``seed``, ``state``, ``epoch``, ``epochs``, figures of the last evaluated epoch,
        ``best_top1``, ``training_seconds``). Accuracies are shares.
    """
    import pandas

    epochs, results = [], []
    for run in runs:
        report = run.report
        history = report["history"] if report else read_history(run.folder)
        evaluations = [evaluation_of(record) for record in history]
        evaluated = [figures for figures in evaluations if figures]
        own = {"row": run.row.name, "seed": run.seed}
        epochs += [
            own | {"epoch": record["epoch"], "train_loss": record["train"]["loss"]}
            | {name: figures.get(name) for name in ("top1", "top5", "loss")}
            for record, figures in zip(history, evaluations, strict=True)
        ]  # fmt: skip
        last = evaluated[-1] if evaluated else {}
        results.append(own | {
            "state": "finished" if report else "under way" if history else "not begun",
            "epoch": history[-1]["epoch"] if history else 0,
            "epochs": run.config.run.epochs,
            **{name: last.get(name) for name in ("top1", "top5", "loss", "images")},
            "best_top1": max((figures["top1"] for figures in evaluated if "top1" in figures), default=None),
            "training_seconds": sum(record["train"]["seconds"] for record in history),
        })  # fmt: skip
    columns = ["row", "seed", "epoch", "train_loss", "top1", "top5", "loss"]
    # Figures that no run has are missing numbers, not objects.
    frame = pandas.DataFrame(epochs, columns=columns).astype(dict.fromkeys(columns[3:], float))
    return frame, pandas.DataFrame(results).astype(dict.fromkeys([*METRICS, "images"], float))


def compare(
    study: Study, configs: Mapping[str, Config], costs: Mapping[str, Mapping[str, int]], results: pandas.DataFrame
) -> pandas.DataFrame:
    """Returns one line for each row that can be built: what it is and costs, and means over its finished seeds.

    ``n`` counts those seeds; each mean has a column ``..._deviation`` beside it. Ablations have differences to their
    base: ``top1_difference``, and ``parameters_change`` and ``flops_change`` as shares.
    """
    import pandas

    lines = []
    for row in study.rows:
        if row.name not in costs:
            continue
        config = configs[row.name]
        lines.append({
            "row": row.name,
            # The network of a base may be one that cannot be built.
            "base": row.base if row.base in costs else None,
            "change": ", ".join(row.differences) or None,
            "config": row.config_file,
            "model": config.arch.name,
            "arguments": json.dumps(config.arch.arguments, default=str),
            "image_shape": " x ".join(map(str, config.run.image_shape)),
            **costs[row.name],
            "published_top1": row.published.top1 if row.published else None,
            "published_parameters": row.published.parameters if row.published else None,
        })  # fmt: skip
    rows = pandas.DataFrame(lines).set_index("row")
    finished = results[results["state"] == "finished"].groupby("row")
    rows["n"] = finished["top1"].count().reindex(rows.index, fill_value=0)
    for name in METRICS:
        rows[name] = finished[name].mean()
        rows[f"{name}_deviation"] = finished[name].std()
    base = rows.reindex(rows["base"])
    rows["top1_difference"] = rows["top1"] - base["top1"].to_numpy()
    for name in ("parameters", "flops"):
        rows[f"{name}_change"] = rows[name] / base[name].to_numpy() - 1
    return rows


def measure_latencies(configs: Mapping[str, Config], threads: int, rounds: int = 12) -> dict[str, list[Any]]:
    """Measures the exported networks (random weights, batch 1, Paddle Inference with oneDNN) in interleaved rounds.

    Returns:
        The columns ``LATENCY`` by row: median and 90th percentile of one image in milliseconds, why there are none, and
        how it was measured.
    """
    import paddle

    from classification.build import build_network
    from ppcls_ext.deploy.benchmark import export_subject, generated_image
    from ppcls_ext.deploy.export import export_classifier

    subjects, reasons = {}, {}
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
                reasons[name] = str(error)
        logger.info("measuring the time of an image of %d networks in interleaved rounds", len(subjects))
        measure_interleaved(list(subjects.values()), rounds)
    machine = f"median of {rounds} interleaved rounds, {threads} thread(s); {processor_name()}, "
    machine += f"{available_cores()} cores"
    latencies: dict[str, list[Any]] = {name: [None, None, reason, None] for name, reason in reasons.items()}
    for name, subject in subjects.items():
        if subject.failure is not None:
            latencies[name] = [None, None, subject.failure, None]
        else:
            statistics = subject.statistics()
            latencies[name] = [statistics["median_ms"], statistics["p90_ms"], None, machine]
    return latencies


def draw(
    study: Study, rows: pandas.DataFrame, results: pandas.DataFrame, epochs: pandas.DataFrame
) -> list[tuple[str, str]]:
    """Draws curves by epoch, and top-1 against what it costs; returns title and file of each picture.

    A curve is the mean over the finished seeds, else the run that has come furthest.
    """
    from ppcls_ext.utils.plots import Band, Point, draw_bands, draw_tradeoff

    pictures = []
    panels: dict[str, list[Band]] = {}
    for name in rows.index:
        own = results[(results["row"] == name) & (results["epoch"] > 0)]
        shown = own[own["state"] == "finished"]
        label = f"{name} (n={len(shown)})"
        if shown.empty and len(own):
            shown = own.nlargest(1, "epoch")
            label = f"{name} (epoch {shown['epoch'].iloc[0]} of {shown['epochs'].iloc[0]})"
        if shown.empty:
            continue
        by_epoch = epochs[(epochs["row"] == name) & epochs["seed"].isin(shown["seed"])].groupby("epoch")
        for title, column, scale in (
            ("top-1 of the evaluation images (%)", "top1", 100.0),
            ("top-5 of the evaluation images (%)", "top5", 100.0),
            ("loss of the evaluation images", "loss", 1.0),
            ("loss of the training images", "train_loss", 1.0),
        ):
            # Epochs that all of these runs have.
            figures = by_epoch[column].agg(["mean", "std", "count"]).query(f"count == {len(shown)}") * scale
            points = [(float(epoch), mean, deviation if deviation == deviation else 0.0)
                      for epoch, mean, deviation in zip(figures.index, figures["mean"], figures["std"], strict=True)]
            panels.setdefault(title, []).append(Band(label, points, rows["base"][name] is not None))  # fmt: skip
    if panels:
        title = f"Study {study.name}: mean over seeds, band of one standard deviation"
        draw_bands(panels, study.output_dir / "curves.png", title)
        pictures.append(("top-1, top-5 and loss of all rows by epoch", "curves.png"))
    measured = rows[rows["top1"].notna()]
    if len(measured) > 1:
        prefix, unit = flops_unit(rows)
        costs = {f"FLOPs ({prefix})": measured["flops"] / unit, "parameters (M)": measured["parameters"] / 1e6,
                 "ms/image": measured["median_ms"].astype(float)}  # fmt: skip
        points = {
            title: [
                Point(name, cost, 100 * top1, 100 * deviation if deviation == deviation else None,
                      series="row" if base is None else "ablation",
                      colour="tab:blue" if base is None else "tab:orange", marker="o" if base is None else "s")
                for name, cost, top1, deviation, base in zip(
                    measured.index, values, measured["top1"], measured["top1_deviation"], measured["base"], strict=True
                )
                if cost == cost
            ]
            for title, values in costs.items()
        }  # fmt: skip
        draw_tradeoff(
            {title: each for title, each in points.items() if each}, study.output_dir / "accuracy_cost.png",
            f"Study {study.name}", "top-1 (%)",
        )  # fmt: skip
        pictures.append(("top-1 by FLOPs, parameters and time of an image", "accuracy_cost.png"))
    return pictures


def flops_unit(rows: pandas.DataFrame) -> tuple[str, float]:
    """Returns the prefix and size of the unit in which the FLOPs of these rows are read best."""
    return ("G", 1e9) if rows["flops"].max() >= 1e8 else ("M", 1e6)


def _text(value: Any, form: str = "{}") -> str:
    """Returns a number in some form, and a dash for a missing one."""
    return "-" if value is None or value != value else form.format(value)


def _percent(line: Any, name: str) -> str:
    deviation = _text(line[f"{name}_deviation"] * 100, " ± {:.2f}")
    return _text(line[name] * 100, "{:.2f}") + ("" if deviation == "-" else deviation)


def markdown_page(
    study: Study,
    configs: Mapping[str, Config],
    rows: pandas.DataFrame,
    results: pandas.DataFrame,
    notes: Sequence[str],
    pictures: Sequence[tuple[str, str]],
) -> str:
    """Returns the comparison as a page; ``notes`` are lines about what failed or could not be compared."""
    finished = results[results["state"] == "finished"]
    images = results["images"].dropna().unique()
    of_images = f"{int(images[0]):,} evaluation images" if len(images) == 1 else "evaluation images"
    epochs = results["epochs"].unique()
    last = f"the last of {epochs[0]} epochs" if len(epochs) == 1 else "the last epoch"
    has_published = bool(rows["published_top1"].notna().any())
    prefix, unit = flops_unit(rows)
    columns = ["row", "model", "parameters, M", f"{prefix}FLOPs", "top-1, %", "top-5, %", "n", "best epoch's top-1, %"]
    columns += ["top-1, % (published)", "parameters, M (published)"] if has_published else []
    table = []
    for name, line in rows.iterrows():
        cells = [name, line["model"], f"{line['parameters'] / 1e6:.3g}", f"{line['flops'] / unit:.3g}",
                 _percent(line, "top1"), _percent(line, "top5"), line["n"], _percent(line, "best_top1")]  # fmt: skip
        if has_published:
            cells += [_text(line["published_top1"], "{:.2f}"), _text(line["published_parameters"], "{:.1f}")]
        seconds = line["training_seconds"]
        table.append([*cells, _text(line["median_ms"], "{:.2f}"), clock(seconds) if seconds == seconds else "-"])
    parts = [
        f"# Study {study.name}",
        f"Written by `python tools/study.py {study.path}`: {len(finished)} of {len(results)} runs are finished. Top-1 "
        f"and top-5 are those of the {of_images} after {last}, mean ± standard deviation over n seeds.",
        markdown_table([*columns, "ms/image", "training of a run"], table),
    ]
    lines = [
        "- FLOPs of one image of the row's size by `paddle.flops`: a multiply-add of a convolution is one.",
        "- The best epoch is chosen by the same images that it is measured on, so its figure flatters.",
        "- Training: seconds spent on training images alone, as the machine was loaded at the time.",
    ]
    if any(configs[name].ema is not None for name in rows.index):
        lines.append("- Rows with a section EMA are evaluated with the averaged weights.")
    for how in rows["measured_on"].dropna().unique():
        lines.append(f"- ms/image: Paddle Inference with oneDNN on the CPU, exported network, batch 1: {how}.")
    for name, reason in rows["no_latency"].dropna().items():
        lines.append(f"- {name} has no time of an image: {reason}")
    networks = []
    for name, line in rows[rows["base"].isna()].iterrows():
        arguments = ", ".join(f"{key}: {value}" for key, value in configs[name].arch.arguments.items())
        images = f"images {line['image_shape']}"
        networks.append(f"- **{name}**: {line['model']} ({arguments}), {images}, `{line['config']}`")
    parts += ["\n".join(lines), "\n".join(networks)]
    ablations = rows[rows["base"].notna()]
    if len(ablations):
        text = "Each row is its base with one change; differences are those of the means."
        table = []
        for base in ablations["base"].unique():
            line = rows.loc[base]
            if line["top1_deviation"] == line["top1_deviation"]:
                text += (
                    f" Another seed alone moves the top-1 of {base} by a standard deviation of "
                    f"{100 * line['top1_deviation']:.2f} points: smaller differences mean nothing, those up to about "
                    "twice of it little."
                )
            sizes = [f"{line['parameters'] / 1e6:.3g} M", f"{line['flops'] / unit:.3g} {prefix}"]
            milliseconds = _text(line["median_ms"], "{:.2f}")
            table.append([f"**{base}**", "(base)", _percent(line, "top1"), line["n"], "-", *sizes, milliseconds])
            for name, line in ablations[ablations["base"] == base].iterrows():
                changes = [_text(line[f"{key}_change"] * 100, "{:+.1f} %") for key in ("parameters", "flops")]
                difference = _text(line["top1_difference"] * 100, "{:+.2f}")
                table.append([name, f"`{line['change']}`", _percent(line, "top1"), line["n"], difference, *changes,
                              _text(line["median_ms"], "{:.2f}")])  # fmt: skip
        columns = ["row", "change", "top-1, %", "n", "difference, points", "parameters", "FLOPs", "ms/image"]
        parts += ["## Ablations", text, markdown_table(columns, table)]
    if has_published:
        sources = [f"- {row.name}: {row.published.source}" for row in study.rows if row.published is not None]
        parts += [
            "## Published figures",
            "Nothing of them was measured here; recipes and image sizes may differ.",
            "\n".join(sources),
        ]
    under_way = results[results["state"] == "under way"]
    waiting = results[results["state"] == "not begun"]
    if len(under_way) or len(waiting) or notes:
        parts.append("## Not finished")
    if len(under_way):
        table = [
            [line["row"], line["seed"], f"{line['epoch']} of {line['epochs']}", _text(line["top1"] * 100, "{:.2f}")]
            for _, line in under_way.iterrows()
        ]
        columns = ["row", "seed", "finished epochs", "top-1, % so far"]
        parts += ["Under way; no mean counts them:", markdown_table(columns, table)]
    if len(waiting):
        runs = [f"{line['row']} (seed {line['seed']})" for _, line in waiting.iterrows()]
        parts.append(f"Not begun: {', '.join(runs)}.")
    if notes:
        parts.append("\n".join(notes))
    parts += [f"![{title}]({file})" for title, file in pictures]
    return "\n\n".join(parts) + "\n"
