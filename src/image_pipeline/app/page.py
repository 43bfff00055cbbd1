"""The web page: Gradio components and their event handlers.

Requests are handled one at a time: Pillow's limits on images are set for the whole process, and
the network uses all cores anyway.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from image_pipeline.app import markup
from image_pipeline.app.model import AppModel, ImagePrediction
from image_pipeline.app.nearest import find_nearest, num_searched
from image_pipeline.app.run_info import RunInfo
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.prediction.inputs import MAX_BYTES
from image_pipeline.tensors.tensor_files import Split

HERE = Path(__file__).parent
NEIGHBOURS = 8
TOP_CLASSES = 5
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
PNG_DATA_URL = "data:image/png;base64,"

# Values of the output components: probabilities, prediction, nearest images, error message.
Outputs = tuple[Any, Any, Any, Any]
NO_OUTPUTS: Outputs = (None, "", "", "")
# A tab in which an image is chosen: the component, the events that start a prediction, their
# handler, and the components whose values it takes.
InputTab = tuple[
    gr.Tab, Sequence[Any], Callable[..., Iterator[Outputs]], list[gr.components.Component]
]


def build(model: AppModel, info: RunInfo) -> gr.Blocks:
    """Return the page for a model."""
    handlers = _Handlers(model)
    with gr.Blocks(title=f"Try {info.dataset}", analytics_enabled=False) as page:
        _html(markup.header(info))
        with gr.Row():
            with gr.Column(), gr.Tabs():
                tabs = []
                if model.card.input_shape[0] == 1:  # grey images can be drawn with one pen
                    tabs.append(_pad_tab(handlers, light_on_dark=model.card.data.mean[0] < 0.5))
                tabs += [_files_tab(handlers), _test_images_tab(handlers, model.test)]
            with gr.Column():
                message = _html()
                label = gr.Label(label="Probability", num_top_classes=TOP_CLASSES, elem_id="label")
                prediction = _html()
        nearest = _html()
        outputs = [label, prediction, nearest, message]
        for tab, triggers, handler, inputs in tabs:
            # A tab that is opened shows its own prediction again.
            for trigger in (tab.select, *triggers):
                trigger(
                    handler, inputs, outputs,
                    show_progress="hidden", trigger_mode="always_last", **ONE_AT_A_TIME,
                )  # fmt: skip
    return page


def _html(content: str = "", **settings: Any) -> gr.HTML:
    return gr.HTML(content, apply_default_css=False, padding=True, **settings)


def _pad_tab(handlers: "_Handlers", *, light_on_dark: bool) -> InputTab:
    with gr.Tab("Draw") as tab:
        pad = _html(
            html_template=markup.pad(light_on_dark=light_on_dark),
            js_on_load=(HERE / "pad.js").read_text(encoding="utf-8"),
            elem_id="pad",
        )
    return tab, [pad.change], handlers.on_drawing, [pad]


def _files_tab(handlers: "_Handlers") -> InputTab:
    with gr.Tab("Image files") as tab:
        files = gr.File(label="Image files", file_count="multiple", elem_id="files")
        table = _html()
        chosen = gr.Dropdown(label="File that is shown", visible=False, elem_id="chosen")
    predicted = files.change(handlers.on_files, files, [table, chosen], **ONE_AT_A_TIME)
    triggers = [predicted.then, chosen.input]
    return tab, triggers, handlers.on_file_chosen, [files, chosen]


def _test_images_tab(handlers: "_Handlers", test: Split | str) -> InputTab:
    missing = isinstance(test, str)
    with gr.Tab("Test images") as tab:
        if isinstance(test, str):
            _html(markup.message(test))
        last = 0 if isinstance(test, str) else len(test.labels) - 1
        number = gr.Number(
            label=f"Number of a test image, 0 to {last}",
            value=None, precision=0, visible=not missing, elem_id="number",
        )  # fmt: skip
    return tab, [number.change], handlers.on_test_image, [number]


def serve(page: gr.Blocks, host: str, port: int | None) -> str:
    """Serve the page in background threads; return its address.

    Args:
        page: the page.
        host: the address to listen on.
        port: the only port to try; None for the first free one of the hundred that Gradio tries.

    Raises:
        OSError: the port is in use, or none is free.
        OverflowError: the port number is out of range.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        num_workers=0,
        root_path="",
        footer_links=[],
        max_file_size=MAX_BYTES,
        # Muted colours, and fonts that every system has.
        theme=gr.themes.Default(
            primary_hue="blue",
            secondary_hue="blue",
            neutral_hue="gray",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    return str(address)


class _Handlers:
    """Event handlers; those that predict yield values of the output components."""

    def __init__(self, model: AppModel) -> None:
        self._model = model

    def on_drawing(self, value: str | None) -> Iterator[Outputs]:
        """Predict a drawing, a PNG file as a data URL; an empty pad clears the outputs."""
        if not value:
            yield NO_OUTPUTS
            return

        def predict() -> tuple[ImagePrediction, None]:
            try:
                content = base64.b64decode(value.removeprefix(PNG_DATA_URL), validate=True)
            except (binascii.Error, ValueError):
                raise DataError("this drawing is not a PNG file") from None
            return self._model.predict_image_file(content), None

        yield from self._outputs(predict)

    def on_files(self, files: list[str] | None) -> tuple[Any, Any]:
        """Predict all files; return their table, and the menu to choose the one that is shown."""
        names = [Path(file).name for file in files or []]
        choices = [(f"{number}: {name}", number) for number, name in enumerate(names, 1)]
        menu = gr.Dropdown(choices=choices, value=1 if names else None, visible=len(names) > 1)
        if not files:
            return "", menu
        return markup.results_table(self._model.predict_files(files), names), menu

    def on_file_chosen(self, files: list[str] | None, number: int | None) -> Iterator[Outputs]:
        """Predict one of the files; `number` counts from 1."""
        if not files or not number or not 0 < number <= len(files):
            yield NO_OUTPUTS
            return
        path = Path(files[number - 1])

        def predict() -> tuple[ImagePrediction, None]:
            try:
                return self._model.predict_image_file(path.read_bytes()), None
            except DataError as error:
                raise DataError(f"{one_line(path.name)}: {error}") from None

        yield from self._outputs(predict)

    def on_test_image(self, number: int | None) -> Iterator[Outputs]:
        """Predict a test image."""
        if number is None:
            yield NO_OUTPUTS
        else:
            yield from self._outputs(lambda: self._model.predict_test_image(int(number)))

    def _outputs(
        self, predict: Callable[[], tuple[ImagePrediction, str | None]]
    ) -> Iterator[Outputs]:
        """Yield a prediction at once, and then the training images, which take longer to find."""
        try:
            result, label = predict()
        except DataError as error:
            yield None, "", "", markup.message(str(error))
            return
        detects_ood = self._model.card.ood is not None
        prediction = markup.prediction(result, detects_ood=detects_ood, label=label)
        yield result.probabilities, prediction, gr.skip(), ""
        yield gr.skip(), gr.skip(), self._nearest(result.pixels), gr.skip()

    def _nearest(self, pixels: np.ndarray) -> str:
        train = self._model.train
        if isinstance(train, str):
            return markup.nearest_images([], f"The nearest training images are not shown: {train}")
        count, total = num_searched(train), len(train.labels)
        images = f"{total:,} training images" if count == total else f"the first {count:,}"
        note = f"The nearest of {images}, by pixel distance"
        return markup.nearest_images(find_nearest(train, pixels, NEIGHBOURS), note)
