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

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from ppcls_ext.arch.convnext import BlockV2, ChannelNorm, Stage
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
    """Where the visible patches of a batch lie.

    Args:
        visible: ``[N, V]``, numbers of the visible patches.
        rows, columns: patches of an image.

    Attributes:
        images: ``[N * V]``, the image of each visible patch; ``row``, ``column``: its place there.
    """

    def __init__(self, visible: np.ndarray, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        count, self.visible = visible.shape
        self.images = np.repeat(np.arange(count), self.visible)
        self.row, self.column = np.divmod(visible.reshape(-1), columns)


class Pile(nn.Layer):
    """Piles up the visible patches of maps. ``piles`` says which they are; None leaves a map as it is."""

    piles: Piles | None = None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, rows * P, columns * P]`` -> ``[N, C, V * P, P]``."""
        if self.piles is None:
            return x
        piles, (images, channels, _, width) = self.piles, x.shape
        side = width // piles.columns
        places = piles.images * piles.rows * piles.columns + piles.row * piles.columns + piles.column
        patches = cut_patches(x, side).reshape([-1, channels, side, side])
        visible = patches.index_select(paddle.to_tensor(places)).reshape([images, -1, channels, side, side])
        return visible.transpose([0, 2, 1, 3, 4]).reshape([images, channels, -1, side])


class LayOut(nn.Layer):
    """Lays the patches of a pile out in their images, zeros between them; see `Pile`."""

    piles: Piles | None = None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, V * P, P]`` -> ``[N, C, rows * P, columns * P]``."""
        if self.piles is None:
            return x
        piles, (images, channels, _, side) = self.piles, x.shape
        count = piles.rows * piles.columns
        # Hidden patches are a row of zeros at the end.
        ranks = np.full([images, piles.rows, piles.columns], len(piles.images))
        ranks[piles.images, piles.row, piles.column] = np.arange(len(piles.images))
        patches = x.reshape([images, channels, -1, side, side]).transpose([0, 2, 1, 3, 4])
        patches = patches.reshape([-1, channels, side, side])
        patches = paddle.concat([patches, paddle.zeros([1, channels, side, side], x.dtype)])
        patches = patches.index_select(paddle.to_tensor(ranks.reshape(-1)))
        return join_patches(patches.reshape([images, count, channels, side, side]), piles.rows, piles.columns)


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
        self.pile, self.lay_out = Pile(), LayOut()
        self.decoder = nn.LayerDict(
            {
                "project": convolution(model.feature_channels[-1], decoder_channels, 1),
                "stage": Stage(None, decoder_channels, BlockV2, [()]),
                "norm": ChannelNorm(decoder_channels),
                "predict": convolution(decoder_channels, in_channels * self.patch**2, 1),
            }
        )
        normal = nn.initializer.Normal(std=0.02)
        self.decoder.add_parameter("token", self.create_parameter([decoder_channels], default_initializer=normal))
        for layer in model.sublayers():
            if isinstance(layer, nn.Conv2D) and layer._kernel_size[0] > layer._stride[0]:
                layer.register_forward_pre_hook(lambda _layer, inputs: (self.lay_out(inputs[0]),))
                layer.register_forward_post_hook(lambda _layer, _inputs, output: self.pile(output))

    def use(self, piles: Piles | None) -> None:
        """Makes the encoder compute on piles of patches; None lets it compute on images again."""
        self.pile.piles = self.lay_out.piles = piles

    def forward(self, image: paddle.Tensor, visible: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Images ``[N, C, H, W]`` and visible patches ``[N, V]`` -> loss, and the painted patches ``[N, G, C, P, P]``.

        The loss is the mean squared error over hidden patches whose pixels are normalised patch by patch (mean 0,
        deviation 1; He et al., arXiv 2111.06377, section 4.1); so are the painted patches.
        """
        images, channels, height, width = image.shape
        rows, columns = height // self.patch, width // self.patch
        hidden = np.ones([images, rows * columns], np.float32)
        np.put_along_axis(hidden, visible, 0, axis=1)
        self.use(Piles(visible, rows, columns))
        try:
            x = self.model.forward_features(self.pile(image))[-1]  # [N, d4, V, 1]
            x = self.decoder["project"](x)
            x = self.lay_out(x)  # [N, D, rows, columns]
        finally:
            self.use(None)
        x = x + paddle.to_tensor(hidden.reshape([images, 1, rows, columns])) * self.decoder.token.reshape([1, -1, 1, 1])
        x = self.decoder["stage"](x)
        x = self.decoder["norm"](x)
        x = self.decoder["predict"](x)  # [N, C * P * P, rows, columns]
        painted = x.flatten(2).transpose([0, 2, 1]).reshape([images, rows * columns, channels, self.patch, self.patch])
        target, _, _ = normalised_patches(image, self.patch)
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
