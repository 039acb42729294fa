"""The first sections of a card: its head, what the model is, its accuracy, its cost, and what goes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ppcls_ext.deploy.cards.data import data_name, evaluation_data, input_size, operators_of
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.form import changed_arguments
from ppcls_ext.deploy.cards.sources import shown_config, shown_weights
from ppcls_ext.deploy.cards.text import escaped, percent, rows_text, shown_operator
from ppcls_ext.utils.tables import markdown_table

LICENSE = "Apache-2.0"
LIBRARY = "paddlepaddle"
PIPELINES = {False: "image-classification", True: "object-detection"}
# Names of COCO's figures for people, in the order of tables.
COCO_FIGURES = {
    "AP": "AP (mean over overlaps 0.50 to 0.95)", "AP50": "AP at overlap 0.50", "AP75": "AP at overlap 0.75",
    "AP_small": "AP, small objects", "AP_medium": "AP, medium objects", "AP_large": "AP, large objects",
    "AR100": "recall with 100 detections an image",
}  # fmt: skip
MOST_NAMES = 200


def front_matter(facts: Facts) -> str:
    """Returns the head: metadata in YAML, of measured results only."""
    source = facts.source
    pipeline = PIPELINES[facts.detects]
    family = [facts.paper.family.lower().replace(" ", "-")] if facts.paper else []
    head: dict[str, Any] = {
        "license": LICENSE.lower(),
        "library_name": LIBRARY,
        "pipeline_tag": pipeline,
        "tags": list(dict.fromkeys([pipeline, *family, "paddle"])),
    }
    names = list(dict.fromkeys(filter(None, (data_name(source.config, part) for part in ("Train", "Eval")))))
    if names and facts.trained:
        head["datasets"] = names
    metrics = _metrics(source.measured, facts.detects)
    if metrics:
        head["metrics"] = list(dict.fromkeys(metric["type"] for metric in metrics))
        dataset = data_name(source.config, "Eval") or "not named"
        result = {
            "task": {"type": pipeline},
            "dataset": {"name": dataset, "type": dataset},
            "metrics": metrics,
        }
        head["model-index"] = [{"name": title(facts), "results": [result]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)}---\n"


def _metrics(measured: Mapping[str, Any], detects: bool) -> list[dict[str, Any]]:
    kinds = {"AP": "mean_average_precision", "AP50": "mean_average_precision"} if detects else {}
    if not detects:
        kinds = {name: "accuracy" for name in measured if name.startswith("top")}
    return [
        {"type": kind, "name": f"{shown_metric(name)}, %", "value": round(100 * measured[name], 2)}
        for name, kind in kinds.items()
        if isinstance(measured.get(name), int | float)
    ]


def shown_metric(name: str) -> str:
    """Returns the name of a figure for people: ``top-1`` for ``top1``."""
    return f"top-{name[3:]}" if name.startswith("top") else name


def title(facts: Facts) -> str:
    """Returns the name of the model with the data that it was trained on."""
    data = data_name(facts.source.config, "Train")
    return f"{facts.source.model} on {data}" if data and facts.trained else facts.source.model


def introduction(facts: Facts) -> str:
    """Returns the title and what the model is."""
    source = facts.source
    kind = "object detector" if facts.detects else "image classifier"
    classes = _class_number(facts)
    of_classes = f" of {classes} classes" if classes and facts.trained else ""
    sentences = [f"{escaped(source.model)} is an {kind}{of_classes}."]
    if facts.paper is not None:
        sentences.append(f"Architecture: {facts.paper.family}, {facts.paper.link}.")
    pruned = " It was pruned, see below." if source.pruning else ""
    if not facts.trained:
        sentences.append("No trained weights belong to this card.")
    return f"# {escaped(title(facts))}\n\n{' '.join(sentences)}{pruned}"


def _class_number(facts: Facts) -> int | None:
    if facts.export is not None:
        return facts.export.class_num
    names = facts.source.class_names
    return len(names) if names else facts.source.arguments.get("class_num") or facts.source.config.get("num_classes")


def results(facts: Facts) -> str:
    """Returns measured and published accuracy, told apart."""
    source = facts.source
    parts = ["## Accuracy", *_measured(facts)]
    published = facts.published
    if published is not None:
        changed = changed_arguments(source.model, source.arguments)
        other = f" This network differs from the published one in {', '.join(changed)}." if changed else ""
        if facts.export is not None and not source.arguments and not source.config:
            other = " An export does not record whether its network has the published form."
        parts.append(
            f"**Published**, not measured by this project: {published.top1:g} % top-1 on ImageNet-1k at "
            f"{published.size} px ({published.source}).{other}"
        )
    else:
        parts.append("Published accuracy: none is known to this project.")
    return "\n\n".join(parts)


def _measured(facts: Facts) -> list[str]:
    source = facts.source
    figures = source.measured
    if not figures:
        return ["**Measured**: not measured."]
    rows = [["measured", "value"]]
    if facts.detects:
        rows += [[text, _percent(figures.get(name))] for name, text in COCO_FIGURES.items() if name in figures]
    else:
        rows += [[shown_metric(name), _percent(value)] for name, value in figures.items() if name.startswith("top")]
        rows += [["loss", f"{figures['loss']:.4f}"]] if isinstance(figures.get("loss"), int | float) else []
    parts = [markdown_table(rows[0], rows[1:]), _provenance(facts)]
    by_class = figures.get("per_class")
    if isinstance(by_class, Mapping) and by_class:
        table = [["class", "AP"], *([escaped(name), _percent(value)] for name, value in by_class.items())]
        parts.append(markdown_table(table[0], table[1:]))
    return parts


def _percent(value: Any) -> str:
    return f"{percent(value)} %" if isinstance(value, int | float) else "not measured"


def _provenance(facts: Facts) -> str:
    """Returns by whom, when and how the figures were measured, and the command that repeats it."""
    source = facts.source
    key = "weights" if facts.detects else "Global.pretrained_model"
    again = f"```bash\npython tools/eval.py -c {shown_config(source)} -o {key}={shown_weights(source)}\n```"
    if not source.history:
        return (
            f"Measured by `tools/prune_model.py` of the pruned network, not fine-tuned, on "
            f"{evaluation_data(source.config)}. The same figures again:\n\n{again}"
        )
    when = f"on {source.date}" if source.date else "on a day that is not recorded"
    kind = "the averaged weights (EMA)" if source.averaged else "the trained weights (no average)"
    images = source.measured.get("images")
    number = f", {images} images" if images else ""
    return (
        f"Measured by the training run (seed {source.seed}) {when}, after epoch {source.best_epoch}, with {kind}, on "
        f"{evaluation_data(source.config)}{number}. The same figures again:\n\n{again}"
    )


def cost(facts: Facts) -> str:
    """Returns parameters and multiply-adds by stage."""
    counts = facts.counts
    if counts is None:
        return "## Parameters and FLOPs\n\nNot counted."
    # A network for small images has less than a tenth of a GFLOP.
    unit, factor = ("GFLOPs", 1e9) if counts.multiply_adds >= 1e8 else ("MFLOPs", 1e6)
    rows = [["stage", "parameters", unit]]
    rows += [[stage, f"{pair[0]:,}", f"{pair[1] / factor:.3f}"] for stage, pair in counts.stages.items()]
    rows.append(["**all**", f"{counts.parameters:,}", f"{counts.multiply_adds / factor:.3f}"])
    height, width = counts.image_shape[1:]
    classes = "" if facts.detects else _classes_counted(facts)
    return (
        f"## Parameters and FLOPs\n\nFor one image of {height} x {width} px{classes}; a multiplication with its "
        f"addition counts as one.\n\n{markdown_table(rows[0], rows[1:])}"
    )


def _classes_counted(facts: Facts) -> str:
    number = facts.source.arguments.get("class_num")
    return f" and {number} classes" if number else " and 1000 classes"


def inputs(facts: Facts) -> str:
    """Returns the size of the input, how images are prepared, and the names of the classes."""
    source = facts.source
    operators = facts.export.preprocess if facts.export is not None else operators_of(source.config, "deployment")
    size = f"{facts.export.input_shape[2]} x {facts.export.input_shape[3]} px" if facts.export else input_size(source)
    names = source.class_names or (facts.export.classes if facts.export is not None else None)
    shown = ""
    if names:
        shown = ", ".join(escaped(name) for name in names[:MOST_NAMES])
        shown += f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    prepared = "; ".join(map(shown_operator, operators))
    rows = [("Size", size), ("Preprocessing", prepared), (f"Classes ({len(names or [])})", shown)]
    text = rows_text(rows)
    return f"## Input and classes\n\n{text}" if text else ""
