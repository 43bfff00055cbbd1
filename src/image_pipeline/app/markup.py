"""HTML for the parts of the page that are not Gradio components; all text in it is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from image_pipeline.app.model import ImagePrediction
from image_pipeline.app.nearest import Neighbour
from image_pipeline.app.run_info import RunInfo
from image_pipeline.prediction.streaming import Prediction, ProcessedImage

PREPARED = {
    "mnist": "Converted to MNIST's format: light on dark, 20 pixels high or wide, centred.",
    "as-trained": "Prepared as the training images were.",
    None: "An image of the data set, unchanged.",
}


def header(info: RunInfo) -> str:
    """Return the title, and which run the model comes from."""
    rows = {
        "Data set": info.dataset,
        "Classes": info.classes(),
        "Network": info.network,
        "Test accuracy": info.accuracy,
        "Run": info.commit,
        "Model file": info.model_hash,
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items()
    )
    return f'<h1>Try the model</h1><dl class="run-info">{items}</dl>'


def pad(*, light_on_dark: bool) -> str:
    """Return the drawing pad; pad.js adds its behaviour."""
    paper, ink = ("#000", "#fff") if light_on_dark else ("#fff", "#000")
    label = "Drawing pad. Arrow keys move the pen, Space puts it down and lifts it."
    return (
        '<div class="pad"><div class="paper">'
        f'<canvas width="280" height="280" tabindex="0" role="application" aria-label="{label}" '
        f'data-paper="{paper}" data-ink="{ink}"></canvas><span class="pen"></span></div>'
        '<div class="below"><button type="button">Clear</button>'
        '<p class="note">Keys: arrows move, Space draws.</p></div></div>'
    )


def message(text: str) -> str:
    """Return an error message."""
    return f'<p class="message" role="alert">{escape(text)}</p>'


def prediction(result: ImagePrediction, *, detects_ood: bool, label: str | None) -> str:
    """Return the network's input with the prediction in words.

    Args:
        result: of an image.
        detects_ood: whether the model can tell that an image is out-of-distribution.
        label: the image's true class, if it is known.
    """
    best = result.class_name
    lines = [f"Predicted class: <b>{escape(best)}</b>, {result.probabilities[best]:.1%}."]
    if label is not None:
        verdict = "Right" if label == best else "Wrong"
        lines.append(f"{verdict}: its class is <b>{escape(label)}</b>.")
    if result.doubts:
        lines.append(f'<span class="doubtful">Doubtful: {escape(", ".join(result.doubts))}.</span>')
    elif detects_ood:
        lines.append("Not doubtful: like the training images.")
    left_out = f" Left out: {', '.join(result.left_out)}." if result.left_out else ""
    lines.append(f'<span class="note">{PREPARED[result.prepared]}{escape(left_out)}</span>')
    text = "".join(f"<p>{line}</p>" for line in lines)
    image = _image(result.pixels, "Network input")
    return f'<div class="prediction">{image}<div role="status">{text}</div></div>'


def nearest_images(neighbours: Iterable[Neighbour], note: str) -> str:
    """Return the nearest training images with their classes."""
    figures = "".join(
        f"<figure>{_image(each.pixels, f'Training image {each.index}')}"
        f"<figcaption>{escape(each.class_name)}</figcaption></figure>"
        for each in neighbours
    )
    return f'<p class="note">{escape(note)}</p><div class="nearest">{figures}</div>'


def results_table(results: Sequence[Prediction | ProcessedImage], names: Sequence[str]) -> str:
    """Return a table with a row per file; `names` are the names that the user knows them by."""
    columns = ("File", "Class", "Probability", "Runner-up")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = "".join(_row(result, name) for result, name in zip(results, names, strict=True))
    return (
        f'<div class="results" tabindex="0" role="region" aria-label="Predictions"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(result: Prediction | ProcessedImage, name: str) -> str:
    if isinstance(result, ProcessedImage):
        return f'<tr><td>{escape(name)}</td><td colspan="3">{escape(result.error)}</td></tr>'
    why = escape(", ".join(result.doubts))
    mark = f'<br><span class="doubtful" title="{why}">doubtful</span>' if why else ""
    return (
        f"<tr><td>{escape(name)}</td><td>{escape(result.class_name)}{mark}</td>"
        f"<td>{result.probability:.2%}</td>"
        f"<td>{escape(result.runner_up)} ({result.runner_up_probability:.2%})</td></tr>"
    )


def _image(pixels: np.ndarray, alt: str) -> str:
    """Return an image, uint8 `[C, H, W]`, as a PNG in the page; the style sheet enlarges it."""
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img class="pixels" alt="{escape(alt)}" src="data:image/png;base64,{encoded}">'
