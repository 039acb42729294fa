"""The sections of a card on the training, and on what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.deploy.cards.data import batch_size, data_name, evaluation_data, operators_of, optimizer_text, section_of
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.sources import Source, shown_config
from ppcls_ext.deploy.cards.text import rows_text, shown_operator, shown_path, shown_value

NOT_RECORDED = "not recorded"


def recipe(facts: Facts) -> str:
    """Returns the command of the training and what its configuration says."""
    source = facts.source
    if not source.config:
        return "" if not facts.trained else f"## Training\n\nThe training is {NOT_RECORDED}."
    origin = source.report.get("config")
    what = f"The configuration (resolved from `{shown_path(origin)}`) says" if origin else "The configuration says"
    if source.pruning and not source.history:
        what = "The configuration of a fine-tuning, which was not run yet, says"
    return (
        f"## Training\n\n```bash\npython tools/train.py -c {shown_config(source)}\n```\n\n{what}:\n\n"
        f"{rows_text(_recipe_rows(source))}"
    )


def _recipe_rows(source: Source) -> list[tuple[str, str]]:
    config, report, state = source.config, source.report, source.state
    order = state.get("data_order") if isinstance(state.get("data_order"), Mapping) else {}
    images = f", {order['images']} images" if order.get("images") else ""
    planned = section_of(config, "Global").get("epochs") or config.get("epoch")
    done = report.get("epochs", state.get("epoch"))
    epochs = f"{done} of {planned}" if done is not None and done != planned else str(planned or NOT_RECORDED)
    optimizer, schedule = optimizer_text(config)
    augmentation = "; ".join(map(shown_operator, operators_of(config, "training")))
    seconds = (report.get("seconds") or {}).get("training")
    machine = [
        f"{report['processes']} process(es)" if "processes" in report else "",
        str(report.get("device", "")),
        f"Paddle {report['paddle']}" if "paddle" in report else "",
        f"{seconds / 3600:.2f} hours" if seconds else "",
    ]
    return [
        ("Data", f"{data_name(config, 'Train') or NOT_RECORDED}{images}"),
        ("Evaluated on", evaluation_data(config)),
        ("Epochs", epochs),
        ("Batch size of a process", batch_size(config)),
        ("Optimizer", optimizer),
        ("Learning rate", schedule),
        ("Loss", _losses(config)),
        ("Averaged weights (EMA)", _average(config)),
        ("Mixed precision", shown_value(config["AMP"]) if config.get("AMP") else ""),
        ("Arguments of the model", shown_value(source.arguments) if source.arguments else ""),
        ("Augmentation", augmentation),
        ("Seed", "" if source.seed is None else str(source.seed)),
        ("Trained with", ", ".join(filter(None, machine))),
    ]


def _losses(config: Mapping[str, Any]) -> str:
    entries = section_of(config, "Loss").get("Train")
    return "; ".join(map(shown_operator, entries)) if isinstance(entries, list) else ""


def _average(config: Mapping[str, Any]) -> str:
    if section_of(config, "EMA"):
        return shown_value(section_of(config, "EMA"))
    return f"decay: {shown_value(config['ema_decay'])}" if config.get("use_ema") and "ema_decay" in config else ""


def limitations(facts: Facts) -> str:
    """Returns what the card's facts do not cover; every line follows from them."""
    source = facts.source
    measured = source.measured
    lines = [*_of_training(facts)] if facts.trained else []
    if not measured:
        lines.append("Accuracy: not measured by this project.")
    else:
        data = evaluation_data(source.config)
        lines.append(f"Accuracy on other data than {data}, robustness and fairness: not measured.")
        if source.best_epoch and len(source.history) > 1:
            lines.append(
                f"Epoch {source.best_epoch} was chosen among {len(source.history)} by the evaluation on the same "
                "images that its accuracy is given for; on images set aside from both: not measured."
            )
    if facts.latency is None:
        lines.append("Latency: not measured.")
    elif facts.latency.by_name:
        lines.append("Latency was measured with random weights and 1000 classes, not with these weights.")
    if facts.export is None:
        lines.append("Exported files: none belong to this card.")
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)


def _of_training(facts: Facts) -> list[str]:
    source = facts.source
    order = source.state.get("data_order")
    images = order.get("images") if isinstance(order, Mapping) else None
    names = source.class_names or (facts.export.classes if facts.export is not None else None)
    data = data_name(source.config, "Train")
    lines = []
    number = f"{images} images" if images else f"a number of images that is {NOT_RECORDED}"
    classes = f"{len(names)} classes" if names else f"classes whose names are {NOT_RECORDED}"
    if data or images:
        lines.append(f"Trained on {number} of {data or 'data that are not named'}, {classes}; it knows no others.")
    else:
        lines.append(f"Training data: {NOT_RECORDED}.")
    if source.seed is not None:
        lines.append(f"Trained once, with seed {source.seed}: the deviation over seeds was not measured.")
    planned = section_of(source.config, "Global").get("epochs") or source.config.get("epoch")
    done = source.report.get("epochs", source.state.get("epoch"))
    if source.folder is not None and not source.report and not source.pruning:
        lines.append(f"The checkpoint is of epoch {done} of {planned}; how the run ended is {NOT_RECORDED}.")
    elif planned and done is not None and done < planned:
        lines.append(f"The training was not finished: {done} of {planned} epochs.")
    unread = len(source.report.get("bad_images") or [])
    if unread:
        lines.append(f"{unread} training images could not be read and were left out.")
    return lines
