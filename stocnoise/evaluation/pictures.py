"""Inputs as pictures in a page: PNG in data: addresses."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor


def is_picture(x: Tensor) -> bool:
    """Whether one input (channels, height, width), of one channel or three, can be shown."""
    return x.dim() == 3 and x.shape[0] in (1, 3) and x.is_floating_point() and min(x.shape[1:]) > 1


def data_address(x: Tensor) -> str:
    """A picture (C, H, W) in [0, 1] as a data: address."""
    values = (x.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().movedim(0, 2).contiguous()
    height, width, channels = values.shape
    lines = b"".join(b"\0" + row.numpy().tobytes() for row in values)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def triple(clean: Tensor, attacked: Tensor) -> tuple[str, str, str, float]:
    """Addresses of the input, the adversarial one and their difference on grey, and how much that is magnified.

    What does not lie in [0, 1] is scaled to it by the range of the clean input.
    """
    clean, attacked = clean.float(), attacked.float()
    low, high = clean.amin(), clean.amax()
    if low >= 0 and high <= 1:
        low, high = torch.tensor(0.0), torch.tensor(1.0)
    width = (high - low).clamp_min(1e-12)
    delta = (attacked - clean) / width
    factor = (0.5 / delta.abs().max().clamp_min(1e-6)).item() if delta.any() else 1.0
    pictures = ((clean - low) / width, (attacked - low) / width, 0.5 + factor * delta)
    first, second, third = (data_address(picture) for picture in pictures)
    return first, second, third, factor
