"""The sections of a card on smaller forms of the model, latency, use, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppcls_ext.deploy.cards.data import section_of
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.overview import shown_metric
from ppcls_ext.deploy.cards.sources import shown_config, shown_weights
from ppcls_ext.deploy.cards.text import percent, shown_path, shown_value
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from ppcls_ext.runtime.description import Artefact

INT8 = "int8"
# Figures of a pruning that are shares, and those that are shown in millions.
SHARES = ("top1", "top5", "AP", "AP50")
MILLIONS = {"parameters": "parameters, M", "flops": "multiply-adds, M"}
MILLISECONDS = {"median_ms": "median latency, ms", "p90_ms": "90th percentile, ms"}


def reductions(facts: Facts) -> str:
    """Returns what distillation, pruning and int8 cost and gained, as far as any of them was done."""
    artefacts = facts.export.artefacts if facts.export is not None else []
    int8 = next((each for each in artefacts if each.precision == INT8), None)
    parts = [_distillation(facts), _pruning(facts.source.pruning), "" if int8 is None else _int8(int8)]
    found = [part for part in parts if part]
    return "\n\n".join(["## Smaller and faster", *found]) if found else ""


def _distillation(facts: Facts) -> str:
    settings = section_of(facts.source.config, "Distillation")
    if not settings:
        return ""
    teacher = section_of(settings, "teacher")
    rest = {key: value for key, value in settings.items() if key != "teacher" and value is not None}
    text = f"**Distillation** from {teacher.get('name', 'a teacher')} ({shown_value(rest)})."
    figures = (facts.source.report.get("teacher") or facts.source.state.get("teacher") or {}).get("eval")
    if isinstance(figures, Mapping) and "top1" in figures:
        text += f" The teacher, measured by the same run: {percent(figures['top1'])} % top-1."
    else:
        text += " The teacher's accuracy: not measured."
    return text


def _pruning(report: Mapping[str, Any]) -> str:
    if not report:
        return ""
    figures = section_of(report, "figures")
    rows = [["", *figures]]
    names = dict.fromkeys(name for each in figures.values() for name in each)
    for name in names:
        cells = [_pruning_cell(name, each.get(name)) for each in figures.values()]
        label = f"{shown_metric(name)}, %" if name in SHARES else {**MILLIONS, **MILLISECONDS}.get(name, name)
        rows.append([label, *cells])
    removed = report.get("removed")
    text = "**Pruning** of channels inside the blocks"
    if isinstance(removed, int | float):
        text += f": {percent(removed)} % of them were removed"
    text += f" (criterion {report.get('criterion')}), measured by `tools/prune_model.py`"
    return f"{text}:\n\n{markdown_table(rows[0], rows[1:])}"


def _pruning_cell(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "not measured"
    if name in SHARES:
        return percent(value)
    if name in MILLIONS:
        return f"{value / 1e6:.2f}"
    return f"{value:.2f}" if name in MILLISECONDS else f"{value:.4f}"


def _int8(artefact: Artefact) -> str:
    measured = artefact.verification
    if not measured:
        return "**int8**: exported, not measured."
    times, sizes = section_of(measured, "latency_ms"), section_of(measured, "bytes")
    rows = [["", "fp32", "int8"]]
    if "metric" in measured:
        rows.append([f"{shown_metric(measured['metric'])}, %", *(percent(measured[name]) for name in ("fp32", INT8))])
    rows += [["latency, ms", *(f"{times[name]:.2f}" for name in ("fp32", INT8))]] if times else []
    rows += [["size, MB", *(f"{sizes[name] / 1e6:.2f}" for name in ("fp32", INT8))]] if sizes else []
    text = f"**int8**, calibrated on {measured.get('calibration_images')} images"
    if "metric" in measured:
        text += f", judged on {measured['images']} images of {measured['data']}"
    else:
        text += "; its accuracy was not measured"
    table = markdown_table(rows[0], rows[1:])
    return f"{text} (`{artefact.format}`, {measured.get('threads')} threads, one image):\n\n{table}"


def latency(facts: Facts) -> str:
    """Returns the latency in each backend and precision."""
    if facts.latency is None:
        return ""
    rows = [["backend", "precision", "input, px", "threads", "batch", "median, ms", "90th percentile, ms", "images/s"]]
    for row in facts.latency.rows:
        rows.append(
            [
                str(row["backend"]), str(row["precision"]), str(row["size"]), str(row["threads"]), str(row["batch"]),
                f"{row['median_ms']:.1f}", f"{row['p90_ms']:.1f}", f"{row['images_per_second']:.1f}",
            ]
        )  # fmt: skip
    machine = facts.latency.machine or "a machine that the file does not name"
    weights = ", with random weights and 1000 classes" if facts.latency.by_name else ""
    return (
        f"## Latency\n\nMeasured by `python tools/benchmark.py models` on {machine}{weights}; the network alone, for "
        f"prepared images.\n\n{markdown_table(rows[0], rows[1:])}"
    )


def use(facts: Facts) -> str:
    """Returns how the model is exported and loaded."""
    source = facts.source
    if facts.detects and not facts.trained:
        return ""
    parts = ["## Use"]
    folder = "EXPORT" if facts.export is None else shown_path(facts.export.folder)
    if facts.export is None and source.weights is not None:
        key = "weights" if facts.detects else "Global.pretrained_model"
        command = f"python tools/export_model.py -c {shown_config(source)} -o {key}={shown_weights(source)}"
        parts.append(f"```bash\n{command} --output {folder}\n```")
    if facts.trained:
        attributes = "found.labels, found.scores" + (", found.boxes" if facts.detects else "")
        parts.append(
            f'```python\nfrom ppcls_ext.runtime import load\n\npredictor = load("{folder}")\n'
            f'for found in predictor(["image.jpg"]):\n    print({attributes})\n```'
        )
    else:
        parts.append(
            "```python\nfrom ppcls_ext import build_model\n\n"
            f'model = build_model("{source.model}", class_num=10)  # random weights, to be trained\n```'
        )
    if facts.export is not None:
        rows = [["format", "precision", "computes in", "opened by"]]
        for each in facts.export.artefacts:
            call = f'`load("{folder}", precision="{each.precision}")`'
            rows.append([each.format, each.precision, each.computed_in, call])
        parts.append(markdown_table(rows[0], rows[1:]))
    return "\n\n".join(parts)


def weights(facts: Facts) -> str:
    """Returns the checksums of the files with weights."""
    rows = [["file", "SHA-256"]]
    if facts.source.weights is not None and facts.checksum is not None:
        rows.append([facts.source.weights.name, f"`{facts.checksum}`"])
    if facts.export is not None:
        checksums = {name: digest for each in facts.export.artefacts for name, digest in each.checksums.items()}
        rows += [[name, f"`{digest}`"] for name, digest in checksums.items()]
    return f"## Weights\n\n{markdown_table(rows[0], rows[1:])}" if len(rows) > 1 else ""
