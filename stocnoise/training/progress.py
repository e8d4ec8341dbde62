"""The progress bar of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any


class ProgressBar:
    """Batches done of `loader`, with figures."""

    def __init__(self, name: str, loader: Any, done: int, hidden: bool) -> None:
        from tqdm import tqdm

        total = None
        with suppress(TypeError):
            total = len(loader)
        self._bar = tqdm(total=total, initial=done, desc=name, unit="batch", disable=hidden, mininterval=0.5)

    def batch_done(self, figures: Callable[[], dict[str, str]]) -> None:
        bar = self._bar
        if bar.disable:
            return
        first = bar.n == 0
        # The bar is drawn twice a second: figures are fetched from the device no oftener.
        if bar.update() or first or bar.n == bar.total:
            bar.set_postfix(figures())

    def close(self) -> None:
        self._bar.close()
