"""A masked autoencoder around any network of this project (ConvNeXt V2, arXiv 2301.00808, section 3.1).

    image -> the visible patches -> stem and stages -> projection -> a mask token where nothing was visible
          -> one block -> linear layer -> the pixels of the hidden patches

The encoder sees nothing but visible patches, piled up to one tall picture: an image of ``G`` patches of which ``V`` are
visible becomes ``[N, C, V * P, P]``, P the side of a patch at this stride. Most layers look at one position, at a patch
as a whole, or at all positions of an image (pooling, response norm), so they compute on the pile what they compute
on an image, and batch norms take their statistics from visible positions alone. Only convolutions wider than their
stride look beyond a patch: around these, the patches are laid out in the image, zeros between them, and piled up again.
This is what the paper's sparse convolutions compute, with two fifths of the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from ppcls_ext.arch.convnext import BlockV2, ChannelNorm
from ppcls_ext.arch.layers import convolution

# A patch of one colour has no deviation to divide by; in the unit of normalised images, squared.
SMALLEST_VARIANCE = 1e-6


def draw_visible(patches: int, ratio: float, seeds: list[list[int]]) -> np.ndarray:
    """Draws which patches stay visible, as many in each image.

    Args:
        patches: number of patches in an image.
        ratio: share that is hidden; at least one patch is hidden, and at least one visible.
        seeds: what decides the draw of each image, such as seed, epoch and number of the sample.

    Returns:
        ``int64`` ``[N, V]``: numbers of the visible patches, row by row, in ascending order.
    """
    visible = min(max(round(patches * (1 - ratio)), 1), patches - 1)
    drawn = [np.random.default_rng(seed).permutation(patches)[:visible] for seed in seeds]
    return np.sort(np.stack(drawn), axis=1)


def cut_patches(image: paddle.Tensor, side: int) -> paddle.Tensor:
    """``[N, C, H, W]`` -> ``[N, G, C, side, side]``, the patches row by row."""
    images, channels, height, width = image.shape
    rows, columns = height // side, width // side
    x = image.reshape([images, channels, rows, side, columns, side]).transpose([0, 2, 4, 1, 3, 5])
    return x.reshape([images, rows * columns, channels, side, side])


def join_patches(patches: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
    """``[N, rows * columns, C, side, side]`` -> ``[N, C, rows * side, columns * side]``."""
    images, _, channels, side, _ = patches.shape
    x = patches.reshape([images, rows, columns, channels, side, side]).transpose([0, 3, 1, 4, 2, 5])
    return x.reshape([images, channels, rows * side, columns * side])


class Piles:
    """Moves maps between the image and the pile of its visible patches, for one batch.

    Args:
        visible: ``[N, V]``, numbers of the visible patches.
        rows, columns: patches of an image.
    """

    def __init__(self, visible: np.ndarray, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        images, count = visible.shape
        patches = rows * columns
        places = visible + patches * np.arange(images)[:, None]
        # Patch k of the batch lies at row `rank` of the piles; those that are hidden are a row of zeros at the end.
        ranks = np.full(images * patches, images * count)
        ranks[places.reshape(-1)] = np.arange(images * count)
        self.places, self.ranks = paddle.to_tensor(places.reshape(-1)), paddle.to_tensor(ranks)

    def pile(self, image: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, rows * P, columns * P]`` -> ``[N, C, V * P, P]``."""
        images, channels, _, width = image.shape
        side = width // self.columns
        patches = cut_patches(image, side).reshape([-1, channels, side, side])
        visible = patches.index_select(self.places).reshape([images, -1, channels, side, side])
        return visible.transpose([0, 2, 1, 3, 4]).reshape([images, channels, -1, side])

    def lay_out(self, pile: paddle.Tensor, hidden: paddle.Tensor | None = None) -> paddle.Tensor:
        """``[N, C, V * P, P]`` -> ``[N, C, rows * P, columns * P]``.

        Args:
            pile: the visible patches.
            hidden: ``[C]``, what stands where nothing is visible; zeros unless given.
        """
        images, channels, _, side = pile.shape
        patches = pile.reshape([images, channels, -1, side, side]).transpose([0, 2, 1, 3, 4])
        shape = [1, channels, side, side]
        rest = paddle.zeros(shape) if hidden is None else hidden.reshape([1, channels, 1, 1]).expand(shape)
        patches = paddle.concat([patches.reshape([-1, channels, side, side]), rest.astype(pile.dtype)])
        patches = patches.index_select(self.ranks).reshape([images, -1, channels, side, side])
        return join_patches(patches, self.rows, self.columns)


class MaskedAutoencoder(nn.Layer):
    """Trains a network to paint the hidden patches of images.

    Args:
        model: the network; its stem and stages are the encoder, and are what training is about.
        in_channels: channels of the images.
        decoder_channels: width of the decoder, 512 in the paper.

    Attributes:
        patch: side of a patch in pixels: the stride of the last stage.
    """

    def __init__(self, model: nn.Layer, in_channels: int = 3, decoder_channels: int = 512) -> None:
        super().__init__()
        self.model = model
        self.patch = model.feature_strides[-1]
        self.decoder = nn.LayerDict(
            {
                "project": convolution(model.feature_channels[-1], decoder_channels, 1),
                "block": BlockV2(decoder_channels),
                "norm": ChannelNorm(decoder_channels),
                "predict": convolution(decoder_channels, in_channels * self.patch**2, 1),
            }
        )
        normal = nn.initializer.Normal(std=0.02)
        self.decoder.add_parameter("token", self.create_parameter([decoder_channels], default_initializer=normal))
        self._piles: Piles | None = None
        for layer in model.sublayers():
            if isinstance(layer, nn.Conv2D) and layer._kernel_size[0] > layer._stride[0]:
                layer.register_forward_pre_hook(self._lay_out)
                layer.register_forward_post_hook(self._pile)

    def _lay_out(self, _layer: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> tuple[paddle.Tensor, ...] | None:
        return None if self._piles is None else (self._piles.lay_out(inputs[0]),)

    def _pile(self, _layer: nn.Layer, _inputs: Any, output: paddle.Tensor) -> paddle.Tensor | None:
        return None if self._piles is None else self._piles.pile(output)

    def forward(self, image: paddle.Tensor, visible: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Images ``[N, C, H, W]`` and visible patches ``[N, V]`` -> loss, and the painted patches ``[N, G, C, P, P]``.

        The loss is the mean squared error over hidden patches whose pixels are normalised patch by patch (mean 0,
        deviation 1; He et al., arXiv 2111.06377, section 4.1); so are the painted patches.
        """
        images, channels, height, width = image.shape
        rows, columns = height // self.patch, width // self.patch
        piles = Piles(visible, rows, columns)
        self._piles = piles
        try:
            features = self.model.forward_features(piles.pile(image))[-1]  # [N, d4, V, 1]
        finally:
            self._piles = None
        x = self.decoder["project"](features)
        x = piles.lay_out(x, self.decoder.token)  # [N, D, rows, columns]
        x = self.decoder["block"](x)
        x = self.decoder["norm"](x)
        x = self.decoder["predict"](x)  # [N, C * P * P, rows, columns]
        painted = x.flatten(2).transpose([0, 2, 1]).reshape([images, rows * columns, channels, self.patch, self.patch])
        target, _, _ = normalised_patches(image, self.patch)
        hidden = np.ones((images, rows * columns), np.float32)
        np.put_along_axis(hidden, visible, 0, axis=1)
        errors = (painted.astype("float32") - target).square().mean(axis=[2, 3, 4])  # [N, G]
        return (errors * paddle.to_tensor(hidden)).sum() / float(hidden.sum()), painted


def normalised_patches(image: paddle.Tensor, side: int) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """``[N, C, H, W]`` -> patches ``[N, G, C, side, side]`` of mean 0 and deviation 1, their means and deviations."""
    patches = cut_patches(image.astype("float32"), side)
    mean = patches.mean(axis=[2, 3, 4], keepdim=True)
    deviation = ((patches - mean).square().mean(axis=[2, 3, 4], keepdim=True) + SMALLEST_VARIANCE).sqrt()
    return (patches - mean) / deviation, mean, deviation


def enlarged(image: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """``[N, C, H, W]`` -> ``[N, C, height, width]``, bilinear; the same tensor if it has this size."""
    if image.shape[2:] == [height, width]:
        return image
    return functional.interpolate(image, [height, width], mode="bilinear", align_corners=False)
