"""Try the model on a web page: draw a digit, drop image files, look through the test images.

`make app` creates the environment that this needs and runs it. The page is served to this machine
only and makes no requests to others. Ctrl-C stops it.
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
# Gradio reads these when it is imported; other settings are passed as arguments.
GRADIO_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_NUM_PORTS": "100",  # tried one after the other
    "GRADIO_SERVER_PORT": str(FIRST_PORT),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--model",
        metavar="FILE",
        type=Path,
        default=paths.MODEL,
        help=f"model file (default: {paths.MODEL})",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        help=f"port to serve at (default: the first free one from {FIRST_PORT} on)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; return the exit status.

    Raises:
        DataError: the model file is missing or invalid.
        PipelineError: Gradio is not installed, or no port is free.
        ParamsError: the model takes images that `predict` does not support.
    """
    if find_spec("gradio") is None:
        raise PipelineError(
            "Gradio is not in this environment; run `make app`, which makes one with it"
        )
    from image_pipeline import numerics

    numerics.pin("portable")
    # After the pin: this imports torch and numpy.
    from image_pipeline.app.model import AppModel
    from image_pipeline.app.run_info import read_run_info

    model = AppModel(arguments.model)
    info = read_run_info(arguments.model, model.card)
    with tempfile.TemporaryDirectory(prefix="image_pipeline_app_") as uploads:
        os.environ.update(GRADIO_ENVIRONMENT, GRADIO_TEMP_DIR=uploads)
        _bypass_proxy()
        from image_pipeline.app.page import build, serve

        page = build(model, info)
        try:
            address = serve(page, HOST, arguments.port)
        except (OSError, OverflowError):
            any_port = f"no port from {FIRST_PORT} on is"
            which = any_port if arguments.port is None else f"port {arguments.port} is not"
            raise PipelineError(f"{which} free; choose another with --port") from None
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            which = f"{info.dataset}, {info.network}, test accuracy {info.accuracy}"
            print(f"app: {which}; Ctrl-C stops it. Open {address}", flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C adds nothing
            page.close(verbose=False)
    print("\napp: stopped")
    return 0


def _bypass_proxy() -> None:
    """Let Gradio reach its own server without a proxy that the user may have set."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
