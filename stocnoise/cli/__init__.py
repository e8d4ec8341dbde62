"""The command `stocnoise`: inspect, fine-tune, evaluate and ask a model by its name; see what serves this machine."""

from stocnoise.cli.main import main

__all__ = ["main"]
