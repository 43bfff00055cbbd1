"""Make the page of `dvc plots show` work offline.

DVC's own page loads the Vega scripts from a content delivery network.
`python -m image_pipeline.commands.plots_page`, a part of `make setup`, writes an HTML template that
contains those scripts, taken from the installed package vl-convert-python, and sets its path in
.dvc/config.local. Git tracks neither.
"""

import subprocess
import sys
from pathlib import Path

from image_pipeline.common.files import write_bytes

# Beside the settings, which DVC (3.67) writes in ASCII: a path to elsewhere may have other letters.
TEMPLATE = Path(".dvc") / "plots_page.html"
VEGA_LITE = "5"  # the major version of the charts that DVC writes

# DVC replaces {plot_divs} and {refresh_tag}. It adds links to the network only for {scripts}.
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
    """Return the Vega scripts as one script that sets `window.vegaEmbed`.

    Raises:
        ImportError: vl-convert-python is missing or has no Vega-Lite 5.
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
    """Write the template and set its path in the local DVC configuration.

    Without the scripts it only prints a warning, since everything else still works.
    """
    try:
        scripts = bundle_scripts()
    except ImportError as error:
        print(
            f"WARNING: the charts of `dvc plots show` will need internet access ({error}); "
            "`make setup` installs the version of vl-convert-python in requirements.lock",
            file=sys.stderr,
        )
        return
    write_bytes(TEMPLATE, (PAGE % scripts).encode())
    command = ["dvc", "config", "--quiet", "--local", "plots.html_template", TEMPLATE.name]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
