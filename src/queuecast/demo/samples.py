"""Samples to try the handlers on, made at the first start, so that everything works with one click."""

from __future__ import annotations

import csv
import io
import os
import random
import struct
import sysconfig
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from .folder import files, folder, samples

TEXT: Final = """\
A lighthouse keeper wrote everything down. When a ship left the harbour he noted it; when its cargo shifted, when it \
turned, when it came home, he noted that too, one line after another, and he never crossed a line out.

Visitors came at all hours. Some had watched from the first line; some arrived in the middle of the night and asked \
what they had missed. He never sent for the captains, and he never kept a book for each visitor. He asked each of \
them one thing only: which line did you read last? Then he turned the pages from there, at their pace, until they \
stood at the newest line together, and from then on they read over his shoulder.

Once the lamp went out. The keeper stumbled, the ink dried, a ship had to sail its route again. But the lines were \
still there when the lamp was lit, and every visitor found the place where they had stopped. Nothing was told twice, \
and nothing was left out.
"""

ROWS: Final = 250_000
REGIONS: Final = ("north", "south", "east", "west", "overseas")
PRODUCTS: Final = ("lamp", "rope", "compass", "lantern oil", "logbook", "ink", "brass bell")

PICTURES: Final = 24
WIDTH, HEIGHT = 1_600, 1_000


def prepare() -> None:
    """Make the demo's folder and whatever sample is missing. May be repeated; a half-made file never shows."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    files().mkdir(exist_ok=True)
    pictures().mkdir(parents=True, exist_ok=True)
    _keep(story(), TEXT.encode)
    _keep(orders(), _orders)
    for number in range(PICTURES):
        _keep(pictures() / f"waves-{number + 1:02d}.png", partial(_waves, number))


def story() -> Path:
    return samples() / "keeper.txt"


def orders() -> Path:
    return samples() / "orders.csv"


def pictures() -> Path:
    return samples() / "pictures"


def library() -> Path:
    """Python's own source code: enough text on every machine to watch a count go on."""
    return Path(sysconfig.get_path("stdlib"))


def _keep(path: Path, make: Callable[[], bytes]) -> None:
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_bytes(make())
        os.replace(part, path)


def _orders() -> bytes:
    """Orders of a ship chandler: the same ones on every machine."""
    pick = random.Random(7)
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["order", "date", "region", "product", "quantity", "price"])
    for number in range(1, ROWS + 1):
        day = date(2025, 1, 1) + timedelta(days=number * 365 // ROWS)
        price = pick.randint(199, 9_999) / 100
        rows.writerow([number, day, pick.choice(REGIONS), pick.choice(PRODUCTS), pick.randint(1, 12), price])
    return text.getvalue().encode()


def _waves(seed: int) -> bytes:
    """A picture of drifting waves, as a PNG. Each row is one ramp seen through a table per colour."""
    pick = random.Random(seed)
    steepness = pick.uniform(0.2, 0.9)
    ramp = bytes(int(x * steepness) % 256 for x in range(WIDTH))
    wave = bytes(abs(2 * level - 255) for level in range(256))
    drifts = [(pick.randrange(256), pick.uniform(0.05, 0.4)) for _colour in "rgb"]
    rows = bytearray()
    for y in range(HEIGHT):
        row = bytearray(3 * WIDTH)
        for colour, (shift, bend) in enumerate(drifts):
            turn = int(shift + y * bend) % 256
            row[colour::3] = ramp.translate(wave[turn:] + wave[:turn])
        rows += b"\0" + row
    return _png(bytes(rows))


def _png(rows: bytes) -> bytes:
    """Eight bits per colour, no filter, no interlace (RFC 2083)."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
