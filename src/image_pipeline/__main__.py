"""The project's own commands: `python -m image_pipeline`, or `image-pipeline`."""

import argparse
import sys
from importlib import import_module

from image_pipeline.common.errors import PipelineError

COMMANDS = {
    "app": "image_pipeline.app.command",
    "audit": "image_pipeline.auditing.command",
    "compare": "image_pipeline.experiments.compare",
    "join": "image_pipeline.commands.join",
    "predict": "image_pipeline.commands.predict",
    "recipe": "image_pipeline.commands.recipe",
    "search": "image_pipeline.experiments.search",
    "seeds": "image_pipeline.experiments.seeds",
    "verify": "image_pipeline.experiments.verify",
}
INTERRUPTED = 130  # as shells report Ctrl-C


def main() -> int:
    """Run the command in sys.argv; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m image_pipeline", description="Commands that complement DVC's."
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    # Only the chosen command's module is imported, which saves time; --help needs them all.
    modules = {
        name: import_module(COMMANDS[name])
        for name in COMMANDS.keys() & set(sys.argv[1:2]) or sorted(COMMANDS)
    }
    for name, module in modules.items():
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
        status: int = modules[arguments.command].run(arguments)
    except PipelineError as error:
        print(f"{arguments.command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{arguments.command}: error: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
