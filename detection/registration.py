"""Puts our network parts, operators and NMS into PaddleDetection's workspace, so that configurations may name them."""

from __future__ import annotations

import contextlib
import importlib
import io

from ppcls_ext.utils.command_line import OUR_PACKAGES
from ppcls_ext.utils.errors import UserError

# Modules whose classes (parts of networks, NMS, operators) are put into the workspace when the module is loaded.
PARTS = (
    "detection.backbone", "detection.yolov10.network", "detection.yolov10.loss", "detection.yolov10.head",
    "detection.nms", "detection.operators",
)  # fmt: skip
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
    # In this order: its modules need each other.
    import ppdet.core.workspace
    import ppdet.data
    import ppdet.modeling  # noqa: F401

    try:
        for module in PARTS:
            importlib.import_module(module)
    except (ValueError, KeyError) as error:
        # As in the checkout of the paper's authors, which has a CSPConvNeXt.
        raise UserError(f"PaddleDetection already has another class under a name of ours: {error}") from error
