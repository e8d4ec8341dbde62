"""The commands and their exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stocnoise.cli import doctor, evaluate, finetune, inspect, predict, settings
from stocnoise.errors import StocnoiseError

_COMMANDS = {"finetune": finetune, "evaluate": evaluate, "predict": predict}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    0; 1 if a model or a file is refused, something is missing, or something is wrong with this machine; 2 for settings
    that cannot be and for a name that nobody knows; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="stocnoise", description="Stochastic models: what would be converted, training, evaluation, answers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect.add_flags(commands)
    for name, module in _COMMANDS.items():
        description = (module.__doc__ or "").strip().splitlines()[0]
        settings.add_flags(commands.add_parser(name, help=description, description=description), module.Settings)
    doctor.add_flags(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command == "inspect":
            return inspect.run(options)
        if options.command == "doctor":
            return doctor.run()
        module = _COMMANDS[options.command]
        return module.run(settings.read(module.Settings, options))
    except (StocnoiseError, ImportError, OSError) as error:
        status, said = 1, str(error)
    except ValueError as error:
        status, said = 2, str(error)
    except KeyboardInterrupt:
        status, said = 130, "stopped" + ("; the same command goes on" if options.command == "finetune" else "")
    print(f"stocnoise: {said}", file=sys.stderr)
    return status
