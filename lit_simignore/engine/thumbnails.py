"""Small pictures of the first samples, showing the part of the image that the model's grid of visual tokens covers."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lit_simignore.data.collate import open_sample
from lit_simignore.engine.atomic import cannot_write, write_json
from lit_simignore.engine.store import MEDIA
from lit_simignore.metrics.records import Run
from lit_simignore.types import Sample

MAX_SIDE = 336


def write_thumbnails(run_dir: Path, samples: Sequence[Sample], run: Run, processor: Any) -> None:
    """Write ``media/*.png`` and ``media/index.json``; pictures that are there already are left alone.

    Args:
        run_dir: the run folder.
        samples: those to show, in order; one without images, or whose images cannot be opened, is listed without.
        run: records, which say what grid each image had.
        processor: the model's; a centre crop that its image processor makes is made here as well.

    Raises:
        UserError: the folder cannot be written.
    """
    index: dict[str, list[dict[str, object]]] = {}
    grids = _grids(run)
    for sample in samples:
        opened = open_sample(sample)
        index[sample.sample_id] = []
        if opened.error is not None:
            continue
        found = grids.get(sample.sample_id, [])
        for place, image in enumerate(opened.images):
            rows, cols = found[place] if place < len(found) else (0, 0)
            file = f"{MEDIA}/{_file_name(sample.sample_id, place)}"
            _write(run_dir / file, seen_part(image, processor))
            index[sample.sample_id].append({"file": file, "rows": rows, "cols": cols})
    if index:
        write_json(run_dir / MEDIA / "index.json", index)


def seen_part(image: Image.Image, processor: Any) -> Image.Image:
    """The part of an image that reaches the model: all of it, unless the image processor crops the centre out."""
    images = getattr(processor, "image_processor", None)
    shortest, crop = _side(getattr(images, "size", None), "shortest_edge"), getattr(images, "crop_size", None)
    height, width = _side(crop, "height"), _side(crop, "width")
    if not getattr(images, "do_center_crop", False) or not (shortest and height and width):
        return image
    scale = min(image.size) / shortest
    half_width, half_height = min(width * scale, image.width) / 2, min(height * scale, image.height) / 2
    x, y = image.width / 2, image.height / 2
    return image.crop((round(x - half_width), round(y - half_height), round(x + half_width), round(y + half_height)))


def _side(size: Any, name: str) -> int | None:
    """One side of a size, which transformers keeps as a dictionary or as an object like one."""
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return int(value) if value else None


def _grids(run: Run) -> dict[str, list[tuple[int, int]]]:
    """Grids by sample; every method sees the same, so the first good record will do."""
    found: dict[str, list[tuple[int, int]]] = {}
    for record in run.predictions.values():
        grids = record.extra.get("grids")
        if isinstance(grids, list) and all(isinstance(grid, list) and len(grid) == 2 for grid in grids):
            found.setdefault(record.sample_id, [(int(rows), int(cols)) for rows, cols in grids])
    return found


def _file_name(sample_id: str, place: int) -> str:
    """A safe name that differs between samples even where their ids are alike but for special characters."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", sample_id)[:48].strip("-")
    return f"{readable or 'sample'}-{hashlib.sha256(sample_id.encode()).hexdigest()[:8]}-{place}.png"


def _write(path: Path, image: Image.Image) -> None:
    if path.is_file():
        return
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(buffer.getvalue())
        scratch.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
