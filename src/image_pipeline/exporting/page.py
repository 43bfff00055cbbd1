"""The page about the model in the form of Hugging Face's model cards: metadata, then Markdown.

Its metadata are written by `huggingface_hub`, as its text is by page.md, a template.
"""

import json
import re
from pathlib import Path

from huggingface_hub.repocard_data import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from image_pipeline.exporting.figures import Figures
from image_pipeline.exporting.sources import Source, images_in_words
from image_pipeline.modeling.model_card import ModelCard

TEMPLATE = Path(__file__).with_name("page.md")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&-])")  # to Markdown
MODES = {1: "L", 3: "RGB"}  # channels, for Pillow

# Of metrics/test.json: its key, the Hub's name of the metric, and its title.
METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_f1", "f1", "Macro F1"),
    ("loss", "loss", "Cross-entropy"),
    ("expected_calibration_error", "expected_calibration_error", "Expected calibration error"),
)


def metadata(
    card: ModelCard, source: Source, figures: Figures, license_: str, *, onnx: bool
) -> ModelCardData:
    """Return the metadata at the head of the page.

    Args:
        card: the model's own.
        source: the data set.
        figures: the run's.
        license_: of the model, as the Hub names it.
        onnx: whether there is an ONNX file.
    """
    return ModelCardData(
        model_name=f"{card.network}-{card.data.dataset}",
        license=license_,
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["image-classification", *(["onnx"] if onnx else []), "pytorch", "safetensors"],
        datasets=[source.hub] if source.hub else None,
        metrics=["accuracy", "f1"],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image Classification",
                dataset_type=source.hub or card.data.dataset,
                dataset_name=source.title,
                dataset_split="test",
                metric_type=kind,
                metric_name=title,
                metric_value=getattr(figures.test, key),
            )
            for key, kind, title in METRICS
        ],
    )


def render(
    card: ModelCard,
    source: Source,
    figures: Figures,
    license_: str,
    weights: int,
    sha256: str,
    *,
    onnx: bool = True,
) -> str:
    """Return the whole page.

    Args:
        card: the model's own.
        source: the data set.
        figures: the run's.
        license_: of the model, as the Hub names it.
        weights: how many numbers the network has learned.
        sha256: of the model's file.
        onnx: whether there is an ONNX file.

    """
    by_f1 = sorted(figures.classes, key=lambda row: float(row["f1"]))
    # Markdown, not HTML; what comes from a file goes through the filter `text`.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.filters |= {"text": _text, "json": json.dumps}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        metadata=metadata(card, source, figures, license_, onnx=onnx).to_yaml(line_break="\n"),
        source=source,
        network=card.network,
        options=card.options,
        augmentation={
            key: value
            for key, value in card.augmentation.items()
            if key != "images_per_draw" and value not in (0, "none")
        },
        shape=card.input_shape,
        images=images_in_words(card.input_shape),
        mode=MODES.get(card.input_shape[0], "L"),
        weights=weights,
        sha256=sha256,
        license=license_,
        onnx=onnx,
        weakest=by_f1[0],
        best=by_f1[-1],
        **vars(figures),
    )


def _text(value: str) -> str:
    """Return words so that Markdown shows them as they are."""
    return SPECIAL.sub(r"\\\1", value)
