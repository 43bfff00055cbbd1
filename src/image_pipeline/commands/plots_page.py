"""Make the page of `dvc plots show` draw its charts without the internet.

DVC's own page loads the Vega scripts from a content delivery network.
`python -m image_pipeline.commands.plots_page`, a part of `make setup`, writes a page template that
carries those scripts, taken from the installed package vl-convert-python, and names it in
.dvc/config.local, which Git does not track.
"""

import os
import subprocess
import sys
from pathlib import Path

from image_pipeline.common.files import write_bytes

TEMPLATE = Path(sys.prefix) / "plots_page.html"
VEGA_LITE = "5"  # the major version of the charts that DVC writes

# DVC fills in {plot_divs} and {refresh_tag}. Without {scripts} it names no network address.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots</title>
<link rel="icon" href="data:,">
<script>
(() => {
%s
})();
</script>
<style>
body { font-family: sans-serif; margin: 1em; }
img { max-width: 100%%; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def bundle_scripts() -> str:
    """Return the Vega scripts as one, with `window.vegaEmbed` set.

    Raises:
        ImportError: vl-convert-python is missing, or too old to have what is needed.
    """
    import vl_convert

    try:
        versions: list[str] = vl_convert.get_vegalite_versions()
        matching = [name for name in versions if name.removeprefix("v").split(".")[0] == VEGA_LITE]
        scripts: str = vl_convert.javascript_bundle(
            snippet="window.vegaEmbed = vegaEmbed;", vl_version=matching[-1]
        )
    except (AttributeError, IndexError, TypeError) as error:
        raise ImportError(f"no Vega-Lite {VEGA_LITE} in this vl-convert-python: {error}") from None
    return scripts


def main() -> None:
    """Write the template and name it in the machine's own DVC configuration.

    Where the scripts are not to be had, everything else still works: it only says so.
    """
    try:
        scripts = bundle_scripts()
    except ImportError as error:
        print(
            f"WARNING: the charts of `dvc plots show` will need the internet ({error}); "
            "`make setup` installs vl-convert-python as requirements.lock has it",
            file=sys.stderr,
        )
        return
    write_bytes(TEMPLATE, (PAGE % scripts).encode())
    template = os.path.relpath(TEMPLATE, ".dvc")  # DVC reads the path from its own folder
    command = ["dvc", "config", "--quiet", "--local", "plots.html_template", template]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
