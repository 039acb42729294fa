"""Tables of counted networks, as Markdown: single models, the path to E-ConvNeXt, compound scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.arch.counting import Count, count_model
from ppcls_ext.arch.path import PATH, Step
from ppcls_ext.arch.scaling import Multipliers
from ppcls_ext.utils.tables import markdown_table

PHI = "phi "
COUNTED = ["parameters, M", "FLOPs, G"]


def _figures(count: Count) -> list[str]:
    return [f"{count.parameters / 1e6:.2f}", f"{count.flops / 1e9:.3f}"]


def model_table(name: str, arguments: Mapping[str, Any], image_size: int) -> str:
    """Returns the table of one model."""
    row = [Step("", name, arguments).architecture, str(image_size), *_figures(count_model(name, arguments, image_size))]
    return markdown_table(["Arch", "image, px", *COUNTED], [row])


def path_table(image_size: int, arguments: Mapping[str, Any]) -> str:
    """Returns the table of the path from ConvNeXt to E-ConvNeXt.

    Args:
        image_size: side of the images, in pixels.
        arguments: of every network besides those of its step, such as ``class_num``.
    """
    rows = [["step", "change", "Arch", *COUNTED]]
    for number, step in enumerate(PATH):
        count = count_model(step.model, {**arguments, **step.arguments}, image_size)
        rows.append([str(number), step.change, f"`{step.architecture}`", *_figures(count)])
    return markdown_table(rows[0], rows[1:])


def scaling_table(
    name: str, arguments: dict[str, Any], image_size: int, steps: Sequence[tuple[str, Multipliers]]
) -> str:
    """Returns the table of a model's scaled forms, and their keys of a configuration below it.

    Args:
        name: the model.
        arguments: of its constructor, without the multipliers.
        image_size: side of its own images, in pixels.
        steps: what is shown for each form, such as ``phi 1``, and its multipliers.
    """
    base = count_model(name, arguments, image_size)
    rows = [[PHI.strip(), "depth", "width", "image, px", *COUNTED, "times the FLOPs"]]
    keys = ["# In a configuration; the sizes of crops and resizes in its transforms go with the images'."]
    for label, step in steps:
        size = step.image_size(image_size, arguments.get("stem_stride", 4))
        architecture = step.architecture(name, arguments)
        scaled = {key: value for key, value in architecture.items() if key != "name"}
        count = count_model(name, scaled, size)
        scale = [label.removeprefix(PHI), f"{step.depth:g}", f"{step.width:g}", str(size)]
        rows.append([*scale, *_figures(count), f"{count.flops / base.flops:.2f}"])
        keys += [
            f"# {label}",
            f"Arch: {Step('', name, scaled).architecture}",
            f"Global: {{image_shape: [{arguments.get('in_channels', 3)}, {size}, {size}]}}",
        ]
    return "\n".join([markdown_table(rows[0], rows[1:]), "", *keys])
