"""The comparison of a study as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classification.study.cost import ENGINE
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.tables import markdown_table

NOTHING = "-"
SMALLEST_IN_G = 1e8
Row = Mapping[str, Any]


def markdown_page(comparison: Mapping[str, Any], pictures: Sequence[tuple[str, str]]) -> str:
    """Returns the whole page.

    Args:
        comparison: see ``compare``, with ``machine`` and, if times were measured, ``timing``.
        pictures: title and file name of each picture beside the page.
    """
    rows = comparison["rows"]
    ablations = [row for row in rows if row["base"] is not None]
    parts = [f"# Study {comparison['study']}", _introduction(comparison), _table(_main_table(rows))]
    parts += [_notes(comparison), _networks(rows)]
    if ablations:
        parts += ["## Ablations", _ablation_text(rows, ablations), _table(_ablation_table(rows, ablations))]
    if any(row["published"] for row in rows):
        parts += ["## Published figures", *_published(rows)]
    parts += _unfinished(comparison)
    parts += [f"![{title}]({file})" for title, file in pictures]
    return "\n\n".join(parts) + "\n"


def _introduction(comparison: Mapping[str, Any]) -> str:
    runs = [seed for row in comparison["rows"] for seed in row["seeds"]]
    finished = sum(seed["state"] == "finished" for seed in runs)
    images = {int(seed["last"]["images"]) for seed in runs if "images" in seed["last"]}
    of_images = f"{images.pop():,} evaluation images" if len(images) == 1 else "evaluation images"
    epochs = {row["epochs"] for row in comparison["rows"]}
    last = f"the last of {epochs.pop()} epochs" if len(epochs) == 1 else "the last epoch"
    return (
        f"Written by `python tools/study.py {comparison['file']}`: {finished} of {len(runs)} runs are finished. "
        f"Top-1 and top-5 are those of the {of_images} after {last}, mean ± standard deviation over n seeds."
    )


def _main_table(rows: Sequence[Row]) -> list[list[str]]:
    published = any(row["published"] for row in rows)
    prefix, unit = flops_unit(rows)
    head = ["row", "model", "parameters, M", f"{prefix}FLOPs", "top-1, %", "top-5, %", "n", "best epoch's top-1, %"]
    head += ["top-1, % (published)", "parameters, M (published)"] if published else []
    table = [[*head, "ms/image", "training of a run"]]
    for row in rows:
        line = [
            row["name"],
            row["model"],
            f"{row['parameters'] / 1e6:.3g}",
            f"{row['flops'] / unit:.3g}",
            percent(row["top1"]),
            percent(row["top5"]),
            _count(row),
            percent(row["best_top1"]),
        ]
        if published:
            line += _published_cells(row["published"])
        seconds = row["training_seconds"]
        table.append([*line, _milliseconds(row["latency"]), clock(seconds["mean"]) if seconds else NOTHING])
    return table


def _published_cells(published: Mapping[str, Any] | None) -> list[str]:
    if published is None:
        return [NOTHING, NOTHING]
    parameters = published["parameters"]
    return [f"{published['top1']:.2f}", f"{parameters:.1f}" if parameters is not None else NOTHING]


def flops_unit(rows: Sequence[Row]) -> tuple[str, float]:
    """Returns the prefix and size of the unit in which the FLOPs of these rows are read best."""
    return ("G", 1e9) if max(row["flops"] for row in rows) >= SMALLEST_IN_G else ("M", 1e6)


def percent(spread: Mapping[str, Any] | None) -> str:
    """Returns a share as percent: the mean and, of several values, the deviation."""
    if spread is None:
        return NOTHING
    deviation = spread["deviation"]
    return f"{100 * spread['mean']:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def _count(row: Row) -> str:
    """Returns over how many finished runs the means of a row are taken."""
    return str(row["top1"]["count"] if row["top1"] else 0)


def _milliseconds(latency: Mapping[str, Any] | None) -> str:
    return f"{latency['median_ms']:.2f}" if latency and "median_ms" in latency else NOTHING


def _notes(comparison: Mapping[str, Any]) -> str:
    rows, timing = comparison["rows"], comparison.get("timing")
    lines = [
        "- FLOPs of one image of the row's size by `paddle.flops`: a multiply-add of a convolution is one.",
        "- The best epoch is chosen by the same images that it is measured on, so its figure flatters.",
        "- Training: seconds spent on training images alone, as the machine was loaded at the time.",
    ]
    if any(row["averaged_weights"] for row in rows):
        lines.append("- Rows with a section EMA are evaluated with the averaged weights.")
    if timing:
        lines.append(
            f"- ms/image: median of {timing['rounds'] * timing['runs']} passes, {ENGINE}, {timing['threads']} "
            f"thread(s), random weights, networks by turns; {comparison['machine']}."
        )
    for row in rows:
        if row["latency"] and "reason" in row["latency"]:
            lines.append(f"- {row['name']} has no time of an image: {row['latency']['reason']}")
    return "\n".join(lines)


def _networks(rows: Sequence[Row]) -> str:
    """Returns what each row but the ablations is: its model, the arguments of the model, the images."""
    lines = []
    for row in rows:
        if row["base"] is None:
            arguments = ", ".join(f"{name}: {value}" for name, value in row["arguments"].items())
            shape = " x ".join(map(str, row["image_shape"]))
            lines.append(f"- **{row['name']}**: {row['model']} ({arguments}), images {shape}, `{row['config']}`")
    return "\n".join(lines)


def _ablation_text(rows: Sequence[Row], ablations: Sequence[Row]) -> str:
    text = "Each row is its base with one change; differences are those of the means."
    names = dict.fromkeys(row["base"] for row in ablations)
    known = [row for row in rows if row["name"] in names and row["top1"] and row["top1"]["deviation"] is not None]
    for base in known:
        text += (
            f" Another seed alone moves the top-1 of {base['name']} by a standard deviation of "
            f"{100 * base['top1']['deviation']:.2f} points: smaller differences mean nothing, those up to about twice "
            "of it little."
        )
    return text


def _ablation_table(rows: Sequence[Row], ablations: Sequence[Row]) -> list[list[str]]:
    prefix, unit = flops_unit(rows)
    table = [["row", "change", "top-1, %", "n", "difference, points", "parameters", "FLOPs", "ms/image"]]
    for name in dict.fromkeys(row["base"] for row in ablations):
        base = next(row for row in rows if row["name"] == name)
        sizes = [f"{base['parameters'] / 1e6:.3g} M", f"{base['flops'] / unit:.3g} {prefix}"]
        table.append([f"**{name}**", "(base)", percent(base["top1"]), _count(base), NOTHING, *sizes,
                      _milliseconds(base["latency"])])  # fmt: skip
        for row in ablations:
            if row["base"] == name:
                table.append(_ablation_line(row))
    return table


def _ablation_line(row: Row) -> list[str]:
    against = row["against_base"]
    return [
        row["name"],
        ", ".join(f"`{change}`" for change in row["differences"]),
        percent(row["top1"]),
        _count(row),
        f"{100 * against['top1']:+.2f}" if against["top1"] is not None else NOTHING,
        f"{100 * against['parameters']:+.1f} %",
        f"{100 * against['flops']:+.1f} %",
        _milliseconds(row["latency"]),
    ]


def _published(rows: Sequence[Row]) -> list[str]:
    """Returns a table of the published figures and a list of their sources."""
    table = [["row", "top-1, % (published)", "parameters, M (published)", "source"]]
    for row in rows:
        if row["published"]:
            table.append([row["name"], *_published_cells(row["published"]), row["published"]["source"]])
    return ["Nothing of this was measured here; recipes and image sizes may differ.", _table(table)]


def _unfinished(comparison: Mapping[str, Any]) -> list[str]:
    """Returns what there is to say of runs that are not finished: how far they are, which failed, which are to come."""
    rows = comparison["rows"]
    table = [["row", "seed", "finished epochs", "top-1, % so far"]]
    waiting = {row["name"]: _seeds(row, "not begun") for row in rows}
    for row in rows:
        for seed in row["seeds"]:
            if seed["state"] == "under way":
                top1 = seed["last"].get("top1")
                so_far = f"{100 * top1:.2f}" if top1 is not None else NOTHING
                table.append([row["name"], str(seed["seed"]), f"{seed['epoch']} of {seed['epochs']}", so_far])
    parts = ["Under way; no mean counts them:", _table(table)] if len(table) > 1 else []
    to_come = [f"{name} (seed {seeds})" for name, seeds in waiting.items() if seeds]
    if to_come:
        parts.append(f"Not begun: {', '.join(to_come)}.")
    failed = [f"- Failed: {each['row']}, seed {each['seed']}: {each['reason']}" for each in comparison["failures"]]
    failed += [f"- Not compared: {name}: {reason}" for name, reason in comparison["left_out"].items()]
    if failed:
        parts.append("\n".join(failed))
    return ["## Not finished", *parts] if parts else []


def _seeds(row: Row, state: str) -> str:
    return ", ".join(str(seed["seed"]) for seed in row["seeds"] if seed["state"] == state)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(rows[0], rows[1:])
