"""All that a call could leave behind in the process, to be compared before and after."""

from __future__ import annotations

import contextlib
import gc
import linecache
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from tqdm import tqdm

from stocnoise import distributed, functional
from stocnoise.conversion.finding import catalog

RANDOM = {"random: torch", "random: Python", "random: NumPy"}


def process_state() -> dict[str, Any]:
    """Each thing by its name, as something that can be compared."""
    gc.collect()  # of what was left by an exception, bars close and classes go
    state: dict[str, Any] = {
        "random: torch": torch.get_rng_state().tolist(),
        "random: Python": random.getstate(),
        "random: NumPy": [value.tolist() if hasattr(value, "tolist") else value for value in numpy.random.get_state()],
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "autocast": [_autocast(device) for device in ("cpu", "cuda")] + [torch.is_autocast_cache_enabled()],
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "precision": torch.get_float32_matmul_precision(),
        "threads of torch": torch.get_num_threads(),
        "function modes": list(map(type, _get_current_function_mode_stack())),
        "dispatch modes": list(map(type, _get_current_dispatch_mode_stack())),
        "functorch": torch._C._functorch.maybe_current_level(),
        "saved tensor hooks": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "stance of torch.compile": str(sys.modules["torch._dynamo.eval_frame"]._stance)
        if "torch._dynamo.eval_frame" in sys.modules
        else None,
        "process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
        "state of Accelerate": sorted(AcceleratorState._shared_state),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "loggers": {name: (log.level, log.disabled, list(log.handlers)) for name, log in _loggers()},
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "linecache": {name for name in linecache.cache if name.startswith("<stocnoise")},
        "modules": set(sys.modules),
        "files": _open_files(),
        "temporary files": sorted(Path(tempfile.gettempdir()).iterdir()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": multiprocessing.active_children(),
        "bars": len(list(getattr(tqdm, "_instances", ()))),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "recursion limit": sys.getrecursionlimit(),
        "registered": dict(catalog._registered),
        "of our own": (functional._as_one, distributed._waiting),
    }
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_"):
            state[name] = list(value) if isinstance(value, dict) else value
    return state


def _autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _loggers() -> Iterator[tuple[str, logging.Logger]]:
    yield "", logging.getLogger()
    for name, log in logging.root.manager.loggerDict.items():
        if isinstance(log, logging.Logger):
            yield name, log


def _open_files() -> list[str]:
    found = []
    with contextlib.suppress(OSError):  # only Linux tells
        for handle in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # that of the listing itself
                found.append(str(handle.readlink()))
    return sorted(name for name in found if not name.startswith(("/proc", "anon_inode")))


def differences(before: dict[str, Any], after: dict[str, Any], but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What is not as it was, by name, with both values, but for what may move."""
    return {
        name: (value, after.get(name)) for name, value in before.items() if name not in but and value != after.get(name)
    }


def model_state(model: torch.nn.Module) -> dict[str, Any]:
    """All of a model that a call could change: classes, modes, hooks, attributes, values, `requires_grad`, `.grad`."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        state[f"{path}: class"] = type(module)
        for name, value in vars(module).items():
            state[f"{path}.{name}"] = _comparable(value)
    return state


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        grad = None if value.grad is None else value.grad.tolist()
        return id(value), value.dtype, value.requires_grad, str(value.tolist()), grad
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else id(value)
