"""HTML of what the page shows beside Gradio's own components; every word in it is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image as Picture

from image_pipeline.app.model import Answer
from image_pipeline.app.nearest import Neighbour
from image_pipeline.app.run_facts import RunFacts
from image_pipeline.prediction.streaming import Image, Prediction

PREPARED = {
    "mnist": "Brought to MNIST's form: light on dark, 20 pixels high or wide, centred.",
    "as-trained": "Prepared as the training images were.",
    None: "One of the data set's own, as it is.",
}


def header(facts: RunFacts) -> str:
    """Return the title, and which run the model is of."""
    rows = {
        "Data set": facts.dataset,
        "Classes": facts.classes(),
        "Network": facts.network,
        "Test accuracy": facts.accuracy,
        "Run": facts.commit,
        "Model file": facts.model_hash,
    }
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items()
    )
    return f'<h1>Try the model</h1><dl class="facts">{shown}</dl>'


def pad(*, light_on_dark: bool) -> str:
    """Return the drawing pad; pad.js brings it to life."""
    paper, ink = ("#000", "#fff") if light_on_dark else ("#fff", "#000")
    how = "Drawing pad. Arrow keys move the pen, Space puts it down and lifts it."
    return (
        '<div class="pad"><div class="paper">'
        f'<canvas width="280" height="280" tabindex="0" role="application" aria-label="{how}" '
        f'data-paper="{paper}" data-ink="{ink}"></canvas><span class="pen"></span></div>'
        '<div class="below"><button type="button">Clear</button>'
        '<p class="note">Keys: arrows move, Space draws.</p></div></div>'
    )


def message(words: str) -> str:
    """Return a line about what went wrong; nothing if nothing did."""
    return f'<p class="message" role="alert">{escape(words)}</p>' if words else ""


def seen(answer: Answer, *, tells_doubt: bool, actual: str | None) -> str:
    """Return what the network saw, and what there is to say of its answer.

    Args:
        answer: of the network.
        tells_doubt: whether the model can tell a doubtful image.
        actual: the image's class, where it is known.
    """
    best = answer.best
    lines = [f"The network says <b>{escape(best)}</b>, {answer.probabilities[best]:.1%}."]
    if actual is not None:
        judged = "Right" if actual == best else "Wrong"
        lines.append(f"{judged}: its class is <b>{escape(actual)}</b>.")
    if answer.doubtful:
        doubt = "Doubtful: this image is unlike those that it was trained on."
        lines.append(f'<span class="doubtful">{doubt}</span>')
    elif tells_doubt:
        lines.append("Not doubtful: this image is like those that it was trained on.")
    lines.append(f'<span class="note">{PREPARED[answer.prepared]}</span>')
    shown = "".join(f"<p>{line}</p>" for line in lines)
    picture = _picture(answer.pixels, "What the network saw")
    return f'<div class="seen">{picture}<div role="status">{shown}</div></div>'


def nearest(neighbours: Iterable[Neighbour], note: str) -> str:
    """Return the nearest training images with their classes."""
    figures = "".join(
        f"<figure>{_picture(one.pixels, f'Training image {one.number}')}"
        f"<figcaption>{escape(one.class_name)}</figcaption></figure>"
        for one in neighbours
    )
    return f'<p class="note">{escape(note)}</p><div class="nearest">{figures}</div>'


def results(predicted: Sequence[Prediction | Image], names: Sequence[str]) -> str:
    """Return a table with a row for each file; `names` are those the user gave them."""
    columns = ("File", "Class", "Probability", "Runner-up")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = "".join(_row(one, name) for one, name in zip(predicted, names, strict=True))
    return (
        f'<div class="results" tabindex="0" role="region" aria-label="Predictions"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(one: Prediction | Image, name: str) -> str:
    if isinstance(one, Image):
        return f'<tr><td>{escape(name)}</td><td colspan="3">{escape(one.error)}</td></tr>'
    doubt = '<br><span class="doubtful">doubtful</span>' if one.doubtful else ""
    return (
        f"<tr><td>{escape(name)}</td><td>{escape(one.class_name)}{doubt}</td>"
        f"<td>{one.probability:.2%}</td>"
        f"<td>{escape(one.runner_up)} ({one.runner_up_probability:.2%})</td></tr>"
    )


def _picture(pixels: np.ndarray, words: str) -> str:
    """Return an image uint8 `[C, H, W]`, whose pixels the style sheet enlarges."""
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    content = io.BytesIO()
    Picture.fromarray(shown).save(content, "PNG")
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img class="pixels" alt="{escape(words)}" src="data:image/png;base64,{encoded}">'
