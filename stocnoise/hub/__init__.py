"""Students on the Hugging Face Hub, or in a folder as it stands there: `save`, `push`, `load`."""

from stocnoise.hub.folder import load, push, save

__all__ = ["load", "push", "save"]
