"""Where every file of the pipeline lies, relative to the project's root (the stages run there)."""

from pathlib import Path

PARAMS = Path("params.yaml")

RAW = Path("data/raw")
WEIGHTS = Path("data/weights")
TENSORS = Path("data/tensors")
TRAIN_TENSORS = TENSORS / "train.safetensors"
VALIDATION_TENSORS = TENSORS / "validation.safetensors"
TEST_TENSORS = TENSORS / "test.safetensors"

MODEL = Path("models/model.safetensors")
ONNX = Path("models/model.onnx")
MODEL_PAGE = Path("models/README.md")
CHECKPOINTS = Path("checkpoints")

DATA_METRICS = Path("metrics/data.json")
TRAIN_METRICS = Path("metrics/train.json")
TEST_METRICS = Path("metrics/test.json")
RECEIPT = Path("metrics/receipt.json")

PLOTS = Path("plots")
CLASS_BALANCE = PLOTS / "class_balance.csv"
DATA_TABLE = PLOTS / "data.csv"
CURVES = PLOTS / "curves.png"
HISTORY = PLOTS / "history.csv"
PREDICTIONS = PLOTS / "predictions.csv"
CLASSES = PLOTS / "classes.csv"
RELIABILITY = PLOTS / "reliability.csv"


def training_data() -> list[Path]:
    """Return the files that training reads."""
    return [TRAIN_TENSORS, VALIDATION_TENSORS, *sorted(WEIGHTS.glob("*"))]
