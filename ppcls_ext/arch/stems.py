"""Stems: from an image to the input of the first stage."""

from __future__ import annotations

from paddle import nn

from ppcls_ext.arch.design import Design
from ppcls_ext.arch.layers import convolution
from ppcls_ext.arch.parts import ConvNormAct, map_norm


def patchify_stem(design: Design, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """One convolution whose windows do not overlap; at stride 1 a 3x3 one, because 1x1 would see no neighbour.

    ``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``.
    """
    shape = (3, 1, 1) if stride == 1 else (stride, stride, 0)
    return nn.Sequential(*_last_convolution(design, in_channels, out_channels, *shape))


def stepped_stem(design: Design, in_channels: int, out_channels: int, halve: bool) -> nn.Sequential:
    """Three convolutions; the first halves the resolution, or keeps it for small images.

    ``[N, in_channels, H, W]`` -> ``[N, out_channels, H // 2, W // 2]``, or the same height and width.
    """
    half = out_channels // 2
    shape = (2, 2, 0) if halve else (3, 1, 1)
    return nn.Sequential(
        ConvNormAct(design, in_channels, half, *shape),
        ConvNormAct(design, half, half, 3, padding=1),
        *_last_convolution(design, half, out_channels, 3, 1, 1),
    )


def _last_convolution(
    design: Design, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int
) -> list[nn.Layer]:
    """A convolution and what follows it in front of the first stage: a norm, and an activation if the design has it."""
    if design.downsampling == "norm_conv":
        return [convolution(in_channels, out_channels, kernel_size, stride, padding), map_norm(design, out_channels)]
    return [ConvNormAct(design, in_channels, out_channels, kernel_size, stride, padding)]
