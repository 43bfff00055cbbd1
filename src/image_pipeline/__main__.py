"""The project's commands beside DVC's own: `python -m image_pipeline`, or `image-pipeline`."""

import argparse
import sys

from image_pipeline.commands import recipe
from image_pipeline.common.errors import PipelineError
from image_pipeline.experiments import compare, verify

COMMANDS = {"compare": compare, "recipe": recipe, "verify": verify}


def main() -> int:
    """Run the command that is asked for; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m image_pipeline", description="The project's commands beside DVC's own."
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        doc = module.__doc__ or ""
        command = subparsers.add_parser(
            name,
            help=doc.splitlines()[0],
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    arguments = parser.parse_args()
    try:
        status: int = COMMANDS[arguments.command].run(arguments)
    except PipelineError as error:
        print(f"{arguments.command}: error: {error}", file=sys.stderr)
        return error.exit_code
    return status


if __name__ == "__main__":
    sys.exit(main())
