"""Puts our network parts, operators and NMS into PaddleDetection's workspace, so that configurations may name them."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from typing import Any

from ppcls_ext.utils.command_line import OUR_PACKAGES
from ppcls_ext.utils.errors import UserError

# Our parts of networks by module; their decorator puts them into the workspace when the module is loaded.
NETWORK_PARTS = {
    "detection.backbone": ("EConvNeXt", "CSPConvNeXt"),
    "detection.yolov10.network": ("YOLOv10Backbone", "YOLOv10Neck"),
    "detection.yolov10.loss": ("YOLOv10Assigner",),
    "detection.yolov10.head": ("YOLOv10Head", "YOLOv10"),
}
# What to install for a package, if not that of its name. Always without dependencies: imgaug's, for one, replace NumPy
# and OpenCV by others than Paddle can use.
WHEELS = {"ppdet": "paddledet", "imgaug": "imgaug imageio scikit-image shapely lazy_loader tifffile"}


def register() -> None:
    """Puts our parts of networks, operators and post-processing into ppdet's workspace. May be called again.

    Raises:
        UserError: ppdet, or a package that it needs, is missing; or a name already means something else there.
    """
    try:
        # On import ppdet prints which packages for tracking it misses; detectors need none of them.
        with contextlib.redirect_stdout(io.StringIO()):
            put_into_workspace()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OUR_PACKAGES:
            raise
        name = WHEELS.get(package, package)
        raise UserError(
            f"PaddleDetection cannot be imported: package {package} is missing; pip install --no-deps {name}"
        ) from error


def put_into_workspace() -> None:
    """As :func:`register`, but what is missing raises ``ModuleNotFoundError``.

    ppdet is the one that Python finds first: that of a checkout at the head of ``sys.path``, else the installed one.
    """
    import ppdet.core.workspace
    import ppdet.data
    import ppdet.modeling

    _check_free(ppdet.core.workspace.global_config)
    for module in NETWORK_PARTS:
        importlib.import_module(module)
    import detection.nms
    import detection.operators

    detection.operators.register()
    detection.nms.register()


def _check_free(present: Mapping[str, Any]) -> None:
    """Raises a UserError if a name of ours is taken by another class, as in the checkout of the paper's authors."""
    for module, names in NETWORK_PARTS.items():
        for name in names:
            other = getattr(present.get(name), "pymodule", None)
            if name in present and getattr(other, "__name__", None) != module:
                where = getattr(other, "__name__", "a configuration")
                raise UserError(
                    f"ppdet's workspace already has a '{name}' that is not ours ({where}); it is left as it is"
                )
