"""The version, for what is written down: a checkout that is not installed has it too."""

__version__ = "0.1.0"
