"""Thumbnails of the images in a folder, with Pillow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Report = Callable[[float, float, str], None]

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass
class Thumbnail:
    """One image. `file` lies under the folder of thumbnails' parent; where there is none, `error` says why."""

    name: str
    width: int = 0
    height: int = 0
    file: str = ""
    error: str = ""


def shrink(source: Path, target: Path, size: int, report: Report) -> Iterator[Thumbnail]:
    """Write each image of a folder (or the one named) into `target`, at most `size` pixels wide and high.

    Raises `ValueError` where there is no image, `RuntimeError` where Pillow is not installed.
    """
    _require_pillow()
    images = _images(source)
    target.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        report(index, len(images), image.name)
        yield _shrink_one(image, target / f"{index:04d}.jpg", size)
    report(len(images), len(images), "")


def _images(source: Path) -> list[Path]:
    candidates = sorted(source.iterdir()) if source.is_dir() else [source]
    found = [path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise ValueError(f"{source} holds no image ({', '.join(sorted(SUFFIXES))})")
    return found


def _shrink_one(source: Path, target: Path, size: int) -> Thumbnail:
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as image:
            width, height = image.size
            image.draft("RGB", (size, size))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((size, size))
            upright.save(target, "JPEG", quality=85)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Thumbnail(source.name, error=str(error))
    return Thumbnail(source.name, width, height, f"{target.parent.parent.name}/{target.parent.name}/{target.name}")


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise RuntimeError("thumbnails need Pillow, which is not installed: pip install 'queuecast[demo]'") from None
