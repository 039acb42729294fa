"""Golden sizes of the switches and of the path from ConvNeXt to E-ConvNeXt: what must not change by accident.

After a change that is meant to alter one, write them anew and look at the difference before committing it:

    python -m tests.golden.make_designs tests/golden/designs.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ppcls_ext.arch.ablation import PATH, Switches
from ppcls_ext.arch.flops import count_model
from ppcls_ext.arch.registry import architecture_parameters
from ppcls_ext.utils.files import write_json

# One model of each family that has switches.
SWITCHED = ("ConvNeXtV1_tiny", "EConvNeXt_mini")
# Narrow and shallow, so that every switch can be tried on every machine, yet with groups and windows worth the name.
SMALL = {"width_multiplier": 0.25, "depth_multiplier": 0.3, "class_num": 5}
SMALL_SIZE = 32
PATH_SIZE = 224
# Values of switches that are numbers.
NUMBERS = {
    "spatial_mlp_window": (4, 3),
    "layer_scale_init_value": (0.0,),
    "depth_multiplier": (0.5, 1.1),
    "width_multiplier": (0.125, 0.375),
}


def switch_values(name: str) -> Iterator[tuple[str, Any]]:
    """Yields each switch of model ``name`` with each of its values: all of those that its annotation lists."""
    parameters = architecture_parameters(name)
    hints = get_type_hints(Switches)
    for switch in (switch for switch in (*hints, "depth_multiplier", "width_multiplier") if switch in parameters):
        listed = (True, False) if hints.get(switch) is bool else get_args(hints.get(switch))
        for value in listed or NUMBERS[switch]:
            yield switch, value


def switch_numbers(name: str, switch: str, value: Any) -> list[int]:
    """Returns trainable parameters and FLOPs of a small form of ``name`` with one switch."""
    return list(astuple(count_model(name, {**SMALL, switch: value}, SMALL_SIZE)))


def path_numbers(step: int) -> list[int]:
    """Returns trainable parameters and FLOPs of a step of the path, with 1000 classes at 224 px."""
    return list(astuple(count_model(PATH[step].model, PATH[step].arguments, PATH_SIZE)))


def main() -> None:
    """Writes the golden sizes to a JSON file."""
    parser = argparse.ArgumentParser(description="Write the golden sizes of switches and of the path to E-ConvNeXt.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    switches = {
        name: {f"{switch}={value}": switch_numbers(name, switch, value) for switch, value in switch_values(name)}
        for name in SWITCHED
    }
    write_json(arguments.file, {"path": [path_numbers(step) for step in range(len(PATH))], "switches": switches})


if __name__ == "__main__":
    main()
