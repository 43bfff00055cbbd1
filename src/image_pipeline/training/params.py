"""The block `train` of params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from image_pipeline.augmenting.params import AugmentationParams
from image_pipeline.common.schema import Block, Choice, Seed, file_name


class ModelParams(Choice):
    """Which network, its constructor's keyword arguments, and whether it starts pretrained."""

    name: Annotated[str, file_name("models")]

    @model_validator(mode="after")
    def _pretrained_is_a_switch(self) -> "ModelParams":
        value = super().options.get("pretrained", False)
        if not isinstance(value, bool):
            raise ValueError(f"`pretrained` of {self.name} must be true or false")
        return self

    @property
    def pretrained(self) -> bool:
        """Whether training starts from the weights that the network's file names."""
        return bool(super().options.get("pretrained", False))

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return {key: value for key, value in super().options.items() if key != "pretrained"}


class FunctionParams(Choice):
    """Which function of `losses`, `schedules` or `transfer`, and its keyword arguments."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class OptimizerParams(Choice):
    """Which class of torch.optim, and its keyword arguments beside the learning rate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=64)]


class TrainParams(Block):
    """The network and how it learns."""

    seed: Seed
    numerics: Literal["portable", "fast"]
    model: ModelParams
    transfer: FunctionParams
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
