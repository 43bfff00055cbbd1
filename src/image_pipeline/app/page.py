"""The page: Gradio's components, and what they ask the model.

All questions wait for each other: Pillow's limits on images are one process's, and the network has
all cores it may use at once anyway.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from image_pipeline.app import markup
from image_pipeline.app.model import Answer, Model, UnreadableError
from image_pipeline.app.nearest import searched
from image_pipeline.app.run_facts import RunFacts
from image_pipeline.common.errors import one_line
from image_pipeline.prediction.sources import MAX_BYTES
from image_pipeline.tensors.tensor_files import Split

HERE = Path(__file__).parent
NEIGHBOURS = 8
TOP_CLASSES = 5
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
FONT = ["system-ui", "sans-serif"]
FIXED_WIDTH = ["ui-monospace", "monospace"]
DRAWING = "data:image/png;base64,"

Shown = tuple[Any, Any, Any, Any]  # probabilities, what was seen, nearest images, message


def build(model: Model, facts: RunFacts) -> gr.Blocks:
    """Return the page for a model."""
    handlers = _Handlers(model)
    with gr.Blocks(title=f"Try {facts.dataset}", analytics_enabled=False) as page:
        _html(markup.header(facts))
        with gr.Row():
            with gr.Column(), gr.Tabs():
                ways = []
                if model.can_be_drawn:
                    ways.append(_pad_tab(handlers, light_on_dark=model.is_light_on_dark))
                ways += [_files_tab(handlers), _test_images_tab(handlers, model.test)]
            with gr.Column():
                message = _html()
                label = gr.Label(label="Probability", num_top_classes=TOP_CLASSES, elem_id="label")
                seen = _html()
        nearest = _html()
        answer = [label, seen, nearest, message]
        for way in ways:
            # A tab that is opened shows its own answer again.
            for trigger in (way.tab.select, *way.triggers):
                trigger(
                    way.ask, way.inputs, answer,
                    show_progress="hidden", trigger_mode="always_last", **ONE_AT_A_TIME,
                )  # fmt: skip
    return page


@dataclass(frozen=True)
class _Way:
    """A way to ask.

    Attributes:
        tab: where.
        triggers: events after which the model is asked.
        ask: the handler.
        inputs: what it takes.
    """

    tab: gr.Tab
    triggers: Sequence[Any]
    ask: Callable[..., Iterator[Shown]]
    inputs: list[gr.components.Component]


def _html(content: str = "", **settings: Any) -> gr.HTML:
    return gr.HTML(content, apply_default_css=False, padding=True, **settings)


def _pad_tab(handlers: "_Handlers", *, light_on_dark: bool) -> _Way:
    with gr.Tab("Draw") as tab:
        pad = _html(
            html_template=markup.pad(light_on_dark=light_on_dark),
            js_on_load=(HERE / "pad.js").read_text(encoding="utf-8"),
            elem_id="pad",
        )
    return _Way(tab, [pad.change], handlers.drawn, [pad])


def _files_tab(handlers: "_Handlers") -> _Way:
    with gr.Tab("Image files") as tab:
        files = gr.File(label="Image files", file_count="multiple", elem_id="files")
        table = _html()
        chosen = gr.Dropdown(label="File that is shown", visible=False, elem_id="chosen")
    predicted = files.change(handlers.predicted, files, [table, chosen], **ONE_AT_A_TIME)
    return _Way(tab, [predicted.then, chosen.input], handlers.chosen_file, [files, chosen])


def _test_images_tab(handlers: "_Handlers", test: Split | str) -> _Way:
    missing = isinstance(test, str)
    with gr.Tab("Test images") as tab:
        if isinstance(test, str):
            _html(markup.message(test))
        last = 0 if isinstance(test, str) else len(test.labels) - 1
        number = gr.Number(
            label=f"Number of a test image, 0 to {last}",
            value=None, precision=0, visible=not missing, elem_id="number",
        )  # fmt: skip
    return _Way(tab, [number.change], handlers.test_image, [number])


def serve(page: gr.Blocks, host: str, port: int | None) -> str:
    """Serve the page, in threads of its own; return its address.

    Args:
        page: to be served.
        host: the address to listen at.
        port: this one alone; None for the first free one of the hundred that Gradio tries.

    Raises:
        OSError: no such port is free.
        OverflowError: there are no such ports.
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
        theme=_theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    return str(address)


def _theme() -> gr.themes.Base:
    """Return Gradio's own theme in quiet colours, with fonts that every system has."""
    return gr.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="gray",
        font=FONT, font_mono=FIXED_WIDTH,
    )  # fmt: skip


class _Handlers:
    """What the components call; each gives what the components of the answer show."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def drawn(self, value: str | None) -> Iterator[Shown]:
        """Answer a drawing, a PNG file as a data address; nothing is shown for an empty pad."""
        if not value:
            yield None, "", "", ""
            return

        def ask() -> tuple[Answer, None]:
            try:
                content = base64.b64decode(value.removeprefix(DRAWING), validate=True)
            except (binascii.Error, ValueError):
                raise UnreadableError("this drawing is no PNG file") from None
            return self._model.ask_about_file(content), None

        yield from self._shown(ask)

    def predicted(self, files: list[str] | None) -> tuple[Any, Any]:
        """Predict all files; return their table, and the choice of the one that is shown."""
        names = [Path(file).name for file in files or []]
        choices = [(f"{number}: {name}", number) for number, name in enumerate(names, 1)]
        chooser = gr.Dropdown(choices=choices, value=1 if names else None, visible=len(names) > 1)
        if not files:
            return "", chooser
        return markup.results(self._model.predict(files), names), chooser

    def chosen_file(self, files: list[str] | None, number: int | None) -> Iterator[Shown]:
        """Answer the file of a number, from 1 on."""
        if not files or not number or not 0 < number <= len(files):
            yield None, "", "", ""
            return
        path = files[number - 1]

        def ask() -> tuple[Answer, None]:
            try:
                return self._model.ask_about_file(Path(path).read_bytes()), None
            except UnreadableError as error:
                raise UnreadableError(f"{one_line(Path(path).name)}: {error}") from None

        yield from self._shown(ask)

    def test_image(self, number: int | None) -> Iterator[Shown]:
        """Answer a test image."""
        if number is None:
            yield None, "", "", ""
        else:
            yield from self._shown(lambda: self._model.ask_about_test_image(int(number)))

    def _shown(self, ask: Callable[[], tuple[Answer, str | None]]) -> Iterator[Shown]:
        """Show an answer at once, and then the training images, which take longer to find."""
        try:
            answer, actual = ask()
        except UnreadableError as error:
            yield None, "", "", markup.message(str(error))
            return
        tells_doubt = self._model.card.ood is not None
        seen = markup.seen(answer, tells_doubt=tells_doubt, actual=actual)
        yield answer.probabilities, seen, gr.skip(), ""
        yield gr.skip(), gr.skip(), self._nearest(answer), gr.skip()

    def _nearest(self, answer: Answer) -> str:
        train = self._model.train
        if isinstance(train, str):
            return markup.nearest([], f"The nearest training images are not shown: {train}")
        count, total = searched(train), len(train.labels)
        of = f"{total:,} training images" if count == total else f"the first {count:,}"
        note = f"The nearest of {of}, by distance of pixels"
        return markup.nearest(self._model.nearest(answer.pixels, NEIGHBOURS), note)
