"""Small copies of what lmms-eval's tasks read, in the layout of the hub: subsets, splits, columns and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.official_layouts import as_cell, write_parquet

SCIENCEQA = ("Which one floats?", "What is this?", "Which comes first?")
CHOICES = (["this", "that", "both"], ["a cat", "a dog"], ["one", "two", "three", "four"])


def scienceqa(folder: Path, num: int = 9) -> Path:
    """ScienceQA with the subset ``ScienceQA-IMG``; every third question has a hint."""
    rows = [
        {
            "image": as_cell(i % 4),
            "question": SCIENCEQA[i % 3],
            "choices": CHOICES[i % 3],
            "answer": i % len(CHOICES[i % 3]),
            "hint": "Look closely." if i % 3 == 0 else "",
            "task": "closed choice",
            "grade": f"grade{i % 5 + 2}",
            "subject": "natural science",
        }
        for i in range(num)
    ]
    return hub_folder(folder, {"ScienceQA-IMG": {"test": rows}})


def pope(folder: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """POPE: all questions in the first subset, the split ``adversarial`` in the subset ``Full``.

    Args:
        folder: to write into.
        rows: released questions (``question_id``, ``image``, ``text``, ``label``); their pictures are made up.
    """
    rows = rows or [
        {"question_id": i + 1, "image": f"COCO_val2014_{i // 3}.jpg", "text": f"Is there a {thing} in the image?",
         "label": "no" if i % 2 else "yes"}
        for i, thing in enumerate(["dog", "cup", "car", "cat", "bird", "tree"])
    ]  # fmt: skip
    pictures = {name: number for number, name in enumerate(dict.fromkeys(row["image"] for row in rows))}
    table = [
        {
            "id": str(number),
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"),
            "image": as_cell(pictures[row["image"]] % 64),
            "category": "adversarial",
        }
        for number, row in enumerate(rows)
    ]
    return hub_folder(folder, {"default": {"test": table}, "Full": {"adversarial": table}})


def hub_folder(folder: Path, subsets: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Path:
    """Parquet files by subset and split, and the card that says where they are."""
    card = ["---", "configs:"]
    for subset, splits in subsets.items():
        home = "data" if subset == "default" else subset
        card += [f"- config_name: {subset}", "  data_files:"]
        for split, rows in splits.items():
            write_parquet(folder / home / f"{split}-00000-of-00001.parquet", rows)
            card += [f"  - split: {split}", f"    path: {home}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder
