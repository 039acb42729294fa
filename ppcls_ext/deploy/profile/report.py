"""Profiles as a Markdown page, as CSV (one row for each layer) and as JSON. Loads no Paddle."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.deploy.profile.result import KINDS, STAGES, LayerFigures, Profile, Sums
from ppcls_ext.utils.files import write_json, write_text
from ppcls_ext.utils.machine import processor_name
from ppcls_ext.utils.tables import markdown_table

MEGA = 1e6
NOTES = (
    "Times are of Paddle's eager mode, one layer after the other: exported networks run fused layers in other engines, "
    "are faster, and may have other bottlenecks. FLOPs are multiply-adds for one image as `paddle.flops` counts them "
    "(convolutions, linear layers, batch norm, pooling layers; layer norm, activations, sums and matrix products "
    "outside of layers count nothing). Activations are the new tensors that layers give, for the whole batch. "
    "'Between layers' is what layers with sublayers do themselves: adding, joining, changing the layout, activations "
    "that are no layers, and the measuring itself. Inside of attention everything counts as attention."
)
FIELDS = ("model", *(field.name for field in dataclasses.fields(LayerFigures)))


def markdown_page(profiles: Sequence[Profile], slowest: int) -> str:
    """Returns the whole page.

    Args:
        profiles: of networks on the same machine.
        slowest: how many layers of each network to show.
    """
    parts = ["# Profile", f"{processor_name()}. {NOTES}", _table(overview_rows(profiles))]
    groups = (
        ("stage", STAGES, [profile.by_stage() for profile in profiles]),
        ("kind of operation", KINDS, [profile.by_kind() for profile in profiles]),
    )
    if len(profiles) > 1:
        names = [profile.name for profile in profiles]
        for title, labels, sums in groups:
            parts += [f"## Time by {title}, ms", _table(_side_by_side(title, labels, names, sums))]
    for index, profile in enumerate(profiles):
        parts.append(f"## {profile.name}")
        for title, _, sums in groups:
            parts.append(_table(_group_rows(title, sums[index], profile)))
        if slowest:
            parts += [f"Slowest layers of {profile.name}:", _table(_slowest_rows(profile, slowest))]
    return "\n\n".join(parts) + "\n"


def overview_rows(profiles: Sequence[Profile]) -> list[tuple[str, ...]]:
    """Returns one row for each network, the head first."""
    rows = [
        (
            "network", "images", "parameters, M", "GFLOPs", "activations, MB", "forward, ms", "sum of layers, ms",
            "of it between layers",
        )
    ]  # fmt: skip
    for profile in profiles:
        total = profile.total
        between = profile.by_kind()[KINDS[-1]].milliseconds
        size = " x ".join(map(str, (profile.batch, *profile.image_shape)))
        counts = (f"{total.parameters / MEGA:.2f}", f"{total.flops / 1e9:.3f}", f"{total.activation_bytes / MEGA:.1f}")
        times = (f"{profile.forward_milliseconds:.1f}", f"{total.milliseconds:.1f}")
        rows.append((profile.name, size, *counts, *times, _share(between, total.milliseconds)))
    return rows


def _side_by_side(
    title: str, labels: Sequence[str], names: Sequence[str], groups: Sequence[Mapping[str, Sums]]
) -> list[tuple[str, ...]]:
    rows = [(title, *names)]
    for label in labels:
        if any(label in group for group in groups):
            rows.append((label, *(_time_cell(group, label) for group in groups)))
    return rows


def _time_cell(group: Mapping[str, Sums], label: str) -> str:
    if label not in group:
        return ""
    total = sum(sums.milliseconds for sums in group.values())
    return f"{group[label].milliseconds:.1f} ({_share(group[label].milliseconds, total)})"


def _group_rows(title: str, group: Mapping[str, Sums], profile: Profile) -> list[tuple[str, ...]]:
    total = profile.total
    rows = [(title, "ms", "of the time", "MFLOPs", "of the FLOPs", "GFLOP/s", "parameters, M", "activations, MB")]
    for label, sums in {**group, "sum": total}.items():
        # FLOPs are of one image, the time is that of the batch.
        speed = profile.batch * sums.flops / sums.milliseconds / MEGA if sums.milliseconds else 0.0
        rows.append(
            (
                label,
                f"{sums.milliseconds:.2f}",
                _share(sums.milliseconds, total.milliseconds),
                f"{sums.flops / MEGA:.1f}",
                _share(sums.flops, total.flops),
                f"{speed:.1f}",
                f"{sums.parameters / MEGA:.3f}",
                f"{sums.activation_bytes / MEGA:.2f}",
            )
        )
    return rows


def _slowest_rows(profile: Profile, count: int) -> list[tuple[str, ...]]:
    rows = [("layer", "class", "kind", "output", "ms", "of the time", "MFLOPs")]
    total = profile.total.milliseconds
    for layer in sorted(profile.layers, key=lambda layer: -layer.milliseconds)[:count]:
        rows.append(
            (
                layer.name,
                layer.type_name,
                layer.kind,
                " x ".join(map(str, layer.output_shape)),
                f"{layer.milliseconds:.2f}",
                _share(layer.milliseconds, total),
                f"{layer.flops / MEGA:.1f}",
            )
        )
    return rows


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def csv_text(profiles: Sequence[Profile]) -> str:
    """Returns one row for each layer of each network, as CSV with a head."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for profile in profiles:
        for layer in profile.layers:
            shape = "x".join(map(str, layer.output_shape))
            writer.writerow({"model": profile.name, **dataclasses.asdict(layer), "output_shape": shape})
    return stream.getvalue()


def json_value(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Returns all figures as plain values, with the sums of each stage and kind."""
    networks = []
    for profile in profiles:
        networks.append(
            {
                **dataclasses.asdict(profile),
                "total": dataclasses.asdict(profile.total),
                "by_stage": {label: dataclasses.asdict(sums) for label, sums in profile.by_stage().items()},
                "by_kind": {label: dataclasses.asdict(sums) for label, sums in profile.by_kind().items()},
            }
        )
    return {"mode": "eager", "processor": processor_name(), "networks": networks}


def write_report(profiles: Sequence[Profile], page: str, path: Path) -> list[Path]:
    """Writes ``path`` (the page) and beside it the same as ``.csv``, ``.json`` and ``.png``, each whole or not at all.

    Returns:
        The four files.
    """
    from ppcls_ext.deploy.profile.chart import draw_profiles

    table, value, chart = (path.with_suffix(suffix) for suffix in (".csv", ".json", ".png"))
    write_text(path, page)
    write_text(table, csv_text(profiles))
    write_json(value, json_value(profiles))
    draw_profiles(profiles, chart)
    return [path, table, value, chart]


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(rows[0], rows[1:])
