"""Try the model in a page: draw a digit, drop image files, look through the test images.

`make app` makes the environment that this needs and runs it. The page is served to this machine
alone, and asks nothing of any other. Ctrl-C ends it.
"""

import argparse
import os
import signal
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from image_pipeline.common import paths
from image_pipeline.common.errors import PipelineError

HOST, FIRST_PORT = "127.0.0.1", 7860
# Read when Gradio is imported. What it reads later is given to it as arguments.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_NUM_PORTS": "100",  # that are tried, one after the other
    "GRADIO_SERVER_PORT": str(FIRST_PORT),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


class AppError(PipelineError):
    """A page that cannot be served."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "--model",
        metavar="FILE",
        type=Path,
        default=paths.MODEL,
        help=f"another model than {paths.MODEL}",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        help=f"this port and no other, instead of the first free one from {FIRST_PORT} on",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; return the exit status.

    Raises:
        AppError: Gradio is not installed, or no port is free.
        DataError: the model file is missing, or is not what it should be.
        PreparationError: its images are of a shape that no image file has.
    """
    if find_spec("gradio") is None:
        raise AppError("Gradio is not in this environment; run `make app`, which makes one with it")
    from image_pipeline import numerics

    numerics.pin("portable")
    # After the pin: this imports torch and numpy.
    from image_pipeline.app.model import Model
    from image_pipeline.app.run_facts import read_facts

    model = Model(arguments.model)
    facts = read_facts(arguments.model, model.card)
    with tempfile.TemporaryDirectory(prefix="image_pipeline_app_") as uploads:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=uploads)
        _spare_the_proxy()
        from image_pipeline.app.page import build, serve

        page = build(model, facts)
        try:
            address = serve(page, HOST, arguments.port)
        except (OSError, OverflowError):
            any_port = f"a port from {FIRST_PORT} on"
            which = any_port if arguments.port is None else f"port {arguments.port}"
            raise AppError(f"{which} cannot be had; give another by --port") from None
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            print(f"app: {facts.one_line()}; Ctrl-C ends it. Open {address}", flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C adds nothing
            page.close(verbose=False)
    print("\napp: ended")
    return 0


def _spare_the_proxy() -> None:
    """Let Gradio reach its own server without the proxy that the user may have set."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
