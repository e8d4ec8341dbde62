"""Mutations of files with right checksums, guided by the lines of our readers that they reach."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import stocnoise
from stocnoise import storage

CORPUS = Path(__file__).parent / "files" / "corpus"
WATCHED = tuple(
    str(Path(stocnoise.__file__).parent / name)
    for name in (
        "storage.py",
        "files.py",
        "portable.py",
        "state_dicts.py",
        "schema.py",
        "description.py",
        "conversion/described.py",
        "training/checkpoints.py",
        "training/recorded.py",
    )
)


class Tied(nn.Module):
    """Small, with tied weights, an argument of integers, and figures of its own for `normalized`."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.act = nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor, last: bool = False) -> Tensor:
        x = self.act(self.one(x)) / lengths.view(-1, 1)
        return nn.functional.gelu(self.two(x))


EXAMPLE = (torch.zeros(2, 3), torch.tensor([1, 2]), True)


def teacher() -> nn.Module:
    return stocnoise.normalized(Tied(), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])


def mixture() -> nn.Module:
    return stocnoise.mix(teacher(), Tied())


@contextmanager
def reached(lines: set[tuple[str, int, int]]) -> Iterator[None]:
    """Add to `lines` each step from line to line in the watched files."""

    def enter(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if not name.startswith(WATCHED):
            return None
        last = 0

        def step(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal last
            lines.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


class Mutator:
    """Changes one file into another whose checksum is right."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def mutate(self, source: Path, target: Path) -> None:
        """Write a mutation of `source`, itself perhaps a mutation, to `target`."""
        try:
            with safe_open(str(source), framework="pt") as file:
                header = dict(file.metadata() or {})
            tensors = load_file(source)
        except (SafetensorError, RuntimeError, KeyError, ValueError):
            target.write_bytes(source.read_bytes())
            return
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            kind = self.random.choice(["json", "json", "json", "json", "text", "tensor", "tensor", "header"])
            if kind == "json":
                header["stocnoise"] = self._in_json(header.get("stocnoise", ""))
            elif kind == "text":
                header["stocnoise"] = self._in_text(header.get("stocnoise", ""))
            elif kind == "tensor":
                self._in_tensors(tensors)
            else:
                header[self.random.choice(["version", "kind"])] = self.random.choice(
                    ["1", "2", "0", "²", "x", "", "9" * 5000, "student", "checkpoint"]
                )
        header["sha256"] = storage._digest(header.get("kind", ""), header["stocnoise"], tensors)
        save_file(tensors, target, metadata=header)
        if self.random.random() < 0.1:
            self._in_header(target)

    def _in_json(self, text: str) -> str:
        try:
            root = [json.loads(text)]
        except (ValueError, RecursionError):
            return text
        places = list(_places(root))
        holder, key = self.random.choice(places)
        other_holder, other_key = self.random.choice(places)
        action = self.random.randrange(6)
        if action < 3:
            holder[key] = self._odd(holder[key])
        elif action == 3:
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif action == 4 and holder is not root:
            del holder[key]
        elif isinstance(holder, dict):
            holder[self.random.choice(["x", "shape", "dict", "$", "values", key + "x"])] = holder[key]
        else:
            holder.insert(0, copy.deepcopy(holder[key]))
        return json.dumps(root[0]) if root else "null"

    def _odd(self, value: Any) -> Any:
        nested: Any = 0
        for _ in range(150):
            nested = [nested] if self.random.random() < 0.5 else {"dict": {"a": nested}}
        odd = [
            None,
            True,
            -1,
            0,
            1,
            7,
            1.5,
            2**31,
            2**62,
            2**63,
            10**40,
            -0.5,
            1e308,
            float("nan"),
            float("inf"),
            nested,
        ]
        odd += ["", "x", "warnings", "StocL2P", "int64", "bool", "float32", "tensor", "tuple", "dict", [], {}, [0] * 70]
        odd += [{"shape": [245_000, 256_000], "dtype": "float32"}, {"shape": [0, 2**62, 2**62], "dtype": "int8"}]
        odd += [
            {"shape": [2], "dtype": "uint8", "values": [1, 256]},
            {"dict": value},
            [value],
            {"$": "tuple", "items": []},
        ]
        if isinstance(value, int | float) and not isinstance(value, bool):
            odd += [value + 1, -value, str(value), 2 * value]
        return self.random.choice(odd)

    def _in_text(self, text: str) -> str:
        at = self.random.randrange(len(text) + 1)
        piece = self.random.choice(
            ["[" * 20_000, "{", "}", '"', ",", "9" * 5_000, "\x00", "é", "NaN", "-", "\\ud800", ""]
        )
        return text[:at] + piece + text[at + self.random.randrange(8) :]

    def _in_tensors(self, tensors: dict[str, Tensor]) -> None:
        if not tensors:
            return
        name = self.random.choice(sorted(tensors))
        value = tensors[name].real.clone() if tensors[name].is_complex() else tensors[name]
        changes: list[Callable[[], Any]] = [
            lambda: value.to(
                self.random.choice([torch.int32, torch.bool, torch.float16, torch.complex64, torch.int64])
            ),
            lambda: value.reshape(-1).clone(),
            lambda: value.unsqueeze(0).clone(),
            lambda: torch.zeros(0, dtype=value.dtype),
            lambda: torch.full_like(value, self.random.choice([-1, 0, 1])),
            lambda: torch.full(value.shape, float("nan")),
            lambda: None,
        ]
        changed = self.random.choice(changes)()
        if changed is None:
            del tensors[name]
            if self.random.random() < 0.5:
                tensors[name + "x"] = value
        else:
            tensors[name] = changed

    def _in_header(self, path: Path) -> None:
        """Change what safetensors itself says of one tensor; the checksum is made right if it can still be read."""
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        names = [name for name in header if name != "__metadata__"]
        if not names:
            return
        entry = header[self.random.choice(names)]
        field = self.random.choice(sorted(entry))
        entry[field] = self.random.choice(
            {
                "dtype": ["F64", "BF16", "F8_E4M3", "F8_E8M0", "F4", "U16", "C64", "BOOL", "U64", "X"],
                "shape": [[], [0], [0, 2**62], [2**62, 2**62], [1] * 100, [3, 0, 2**40], [-1], [2**64]],
                "data_offsets": [[0, 0], [0, 2**62], [4, 0], [0, 4]],
            }[field]
        )
        written = json.dumps(header).encode()
        path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            about = header["__metadata__"]
            about["sha256"] = storage._digest(about.get("kind", ""), about["stocnoise"], tensors)
        except Exception:
            return
        written = json.dumps(header).encode()
        path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def explore(
    seeds: list[Path], folder: Path, read: Callable[[Path], object], count: int, seed: int, keep: Path | None = None
) -> set[tuple[str, int, int]]:
    """`count` mutations of `seeds` and of those that reach new lines; `read` raises for a file treated wrongly."""
    lines: set[tuple[str, int, int]] = set()
    pool = [path.read_bytes() for path in seeds]
    mutator, source, target = Mutator(seed), folder / "source", folder / "mutated"
    for i in range(-len(seeds), count):
        if i < 0:
            target.write_bytes(pool[i])
        else:
            # Half of the time from the whole file: one that is refused hides what comes after the reason.
            source.write_bytes(pool[0] if mutator.random.random() < 0.5 else mutator.random.choice(pool))
            mutator.mutate(source, target)
        known = len(lines)
        with reached(lines):
            read(target)
        if i >= 0 and len(lines) > known and target.stat().st_size < 20_000:
            pool.append(target.read_bytes())
            if keep is not None:
                (keep / f"{seeds[0].stem}-{len(pool) - len(seeds):02d}.safetensors").write_bytes(pool[-1])
    return lines
