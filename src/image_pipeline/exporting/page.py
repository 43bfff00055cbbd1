"""The model card in the format of the Hugging Face Hub: YAML metadata, then Markdown.

`huggingface_hub` writes the metadata; the text is the template page.md.
"""

import json
import re
from pathlib import Path

from huggingface_hub.repocard_data import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from image_pipeline.exporting.provenance import DatasetProvenance, describe_pixels
from image_pipeline.exporting.run_metrics import RunMetrics
from image_pipeline.modeling.model_card import ModelCard

TEMPLATE = Path(__file__).with_name("page.md")
MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&-])")
PILLOW_MODES = {1: "L", 3: "RGB"}  # by number of channels

# Keys of metrics/test.json, with the Hub's identifier of the metric and its title.
METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_f1", "f1", "Macro F1"),
    ("loss", "loss", "Cross-entropy"),
    ("expected_calibration_error", "expected_calibration_error", "Expected calibration error"),
)


def render(
    card: ModelCard,
    source: DatasetProvenance,
    metrics: RunMetrics,
    license_: str,
    weights: int,
    sha256: str,
    *,
    onnx: bool = True,
) -> str:
    """Return the whole page.

    Args:
        card: metadata of the model file.
        source: the data set's provenance.
        metrics: the run's.
        license_: of the model, the Hub's identifier.
        weights: number of trainable parameters.
        sha256: of the model file.
        onnx: whether there is an ONNX file.
    """
    by_f1 = sorted(metrics.classes, key=lambda row: float(row["f1"]))
    # Markdown, not HTML: values that come from files are escaped by the filter `text`.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.filters |= {"text": _escape_markdown, "json": json.dumps}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        metadata=_hub_metadata(card, source, metrics, license_, onnx=onnx).to_yaml(line_break="\n"),
        source=source,
        network=card.network,
        initial=card.weights,
        data_info=card.data,
        bleed=round((1 - card.data.crop_fraction) / 2, 6),
        options=card.options,
        augmentation={
            key: value
            for key, value in card.augmentation.items()
            if key != "images_per_draw" and value not in (0, "none")
        },
        shape=card.input_shape,
        pixels=describe_pixels(card.input_shape, card.data.bits),
        mode=PILLOW_MODES.get(card.input_shape[0], "L"),
        weights=weights,
        sha256=sha256,
        license=license_,
        onnx=onnx,
        worst=by_f1[0],
        best=by_f1[-1],
        **vars(metrics),
    )


def _hub_metadata(
    card: ModelCard, source: DatasetProvenance, metrics: RunMetrics, license_: str, *, onnx: bool
) -> ModelCardData:
    return ModelCardData(
        model_name=f"{card.network}-{card.data.dataset}",
        license=license_,
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["image-classification", *(["onnx"] if onnx else []), "pytorch", "safetensors"],
        datasets=[source.hub_id] if source.hub_id else None,
        metrics=["accuracy", "f1"],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image Classification",
                dataset_type=source.hub_id or card.data.dataset,
                dataset_name=source.title,
                dataset_split="test",
                metric_type=kind,
                metric_name=title,
                metric_value=getattr(metrics.test, key),
            )
            for key, kind, title in METRICS
        ],
    )


def _escape_markdown(value: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", value)
