"""A residual network for photographs: narrow where images are large, wide where they are small.

Sources: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015): the
shortcut around a convolution. Ioffe and Szegedy, "Batch Normalization" (2015). Page, "How to Train
Your ResNet" (2018): few blocks, the shortcut after the block's activation, max-pooling over the
whole image before the only dense layer, logits scaled down. Jordan, "94% on CIFAR-10 in 3.29
Seconds on a Single GPU" (2024): pooling between the block's convolution and its normalisation, a
2x2 stem that is not trained and whitens image patches, GELU, few filters in the first block. There
the stem is computed from the images; here its filters are cosines, which approximate that for any
photographs (Ahmed, Natarajan and Rao, "Discrete Cosine Transform", 1974).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_SIDE = 64  # pixels, of the input of the first block; the stem downsamples larger images


def cosine_patterns(channels: int, count: int) -> Tensor:
    """Return orthogonal 2x2 patterns and their negatives, the filters of the stem.

    They are products of cosines over channels, rows and columns. For colour images: the mean, red
    against blue, and green against both, each constant, varying by rows, by columns, and as a
    checkerboard. The batch norm that follows sets their scale.

    Returns:
        float32 `[count, channels, 2, 2]`; beyond 8 * channels they repeat.
    """
    pixels = torch.kron(cosines(2), cosines(2))
    patterns = torch.kron(cosines(channels), pixels).reshape(-1, channels, 2, 2)
    signed = torch.cat([patterns, -patterns])
    return signed[torch.arange(count) % len(signed)]


def cosines(size: int) -> Tensor:
    """Return the basis of the discrete cosine transform (DCT-II), one row each, `[size, size]`."""
    steps = [
        [math.pi * (column + 0.5) * row / size for column in range(size)] for row in range(size)
    ]
    # Rounded, as the last bit of a cosine depends on the processor.
    return torch.tensor([[round(math.cos(step), 6) for step in row] for row in steps])


class Block(nn.Module):
    """A convolution with max-pooling that increases the channels, then a residual convolution."""

    def __init__(self, before: int, after: int, pool: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(pool)
        self.widen_norm = nn.BatchNorm2d(after)
        self.residual = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.residual_norm = nn.BatchNorm2d(after)

    def forward(self, values: Tensor) -> Tensor:
        """Map `[B, before, height, width]` to `[B, after, height // pool, width // pool]`."""
        # Pooled before normalisation: it leaves a quarter of the values to normalise.
        values = functional.gelu(self.widen_norm(self.pool(self.widen(values))))
        return values + functional.gelu(self.residual_norm(self.residual(values)))


class Model(nn.Module):
    """A stem, residual blocks that each halve the image, global max-pooling, and a dense layer.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        stem_filters: number of filters of the stem, a 2x2 convolution of fixed cosines. For images
            with a side of more than 64 pixels, strided 3x3 convolutions precede it, and the whole
            stem is trained.
        filters: number of filters of each block.
        logit_scale: factor of the logits; below 1, confidence grows more slowly.
        window: side in pixels of a random crop in training, the same for all images of a
            micro-batch; evaluation uses whole images (Touvron, Vedaldi, Douze and Jegou, "Fixing
            the train-test resolution discrepancy", 2019). 28 of 32 pixels save a quarter of the
            work. 0: no crop.
        mirror: in evaluation, average the logits of the image and of its mirror image; for data
            whose classes do not change when mirrored.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        stem_filters: int = 24,
        filters: Sequence[int] = (48, 128, 256),
        logit_scale: float = 0.125,
        window: int = 0,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        stem: list[nn.Module] = []
        fixed = max(height, width) <= MAX_SIDE
        while max(height, width) > MAX_SIDE:
            stem += [
                nn.Conv2d(channels, stem_filters, 3, 2, 1, bias=False),
                nn.BatchNorm2d(stem_filters),
                nn.GELU(),
            ]
            channels, height, width = stem_filters, (height + 1) // 2, (width + 1) // 2
        patterns = nn.Conv2d(channels, stem_filters, 2, bias=False)
        if fixed:
            patterns.weight.requires_grad_(False).copy_(cosine_patterns(channels, stem_filters))
        stem += [patterns, nn.BatchNorm2d(stem_filters), nn.GELU()]
        channels, side = stem_filters, min(height, width) - 1
        blocks: list[nn.Module] = []
        for after in filters:
            pool = 2 if side > 1 else 1  # a single pixel cannot be halved
            blocks.append(Block(channels, after, pool))
            channels, side = after, side // pool
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(channels, classes)
        self.logit_scale = logit_scale
        self.window = window
        self.mirror = mirror
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        images = images.to(memory_format=torch.channels_last)
        if self.training:
            return self._logits(self._random_crop(images))
        logits = self._logits(images)
        return (logits + self._logits(images.flip(3))) / 2 if self.mirror else logits

    def _random_crop(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if not 0 < self.window < min(height, width):
            return images
        top = int(torch.randint(height - self.window + 1, ()))
        left = int(torch.randint(width - self.window + 1, ()))
        return images[:, :, top : top + self.window, left : left + self.window]

    def _logits(self, images: Tensor) -> Tensor:
        values = self.blocks(self.stem(images))  # [B, filters[-1], 3, 3] for 32x32 pixels
        values = values.amax(dim=(2, 3))  # [B, filters[-1]]
        logits: Tensor = self.output(values) * self.logit_scale
        return logits
