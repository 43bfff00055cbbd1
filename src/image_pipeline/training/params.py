"""The block `train` of params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field

from image_pipeline.augmenting.params import AugmentationParams
from image_pipeline.common.schema import Block, Choice, Seed, file_name


class ModelParams(Choice):
    """Which network, and its constructor's keyword arguments."""

    name: Annotated[str, file_name("models")]


class FunctionParams(Choice):
    """Which function of `training.losses` or `training.schedules`, and its keyword arguments."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class OptimizerParams(Choice):
    """Which class of torch.optim, and its keyword arguments beside the learning rate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=64)]


class TrainParams(Block):
    """The network and how it learns."""

    seed: Seed
    numerics: Literal["portable", "fast"]
    model: ModelParams
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    loss: FunctionParams
    optimizer: OptimizerParams
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    lr_schedule: FunctionParams
    augmentation: AugmentationParams

    def effective(self) -> dict[str, Any]:
        """Return what decides a result: all but the options of what is not chosen."""
        values = self.model_dump()
        for key, value in self:
            if isinstance(value, Choice):
                values[key] = {"name": value.name, value.name: value.options}
        return values
