"""Small data of our own in the layout in which each benchmark is published: names of files and columns are official."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Fields = Mapping[str, Any]


def picture(index: int) -> Image.Image:
    """A picture that differs from all others, with pattern enough to be no single colour."""
    image = Image.new("RGB", (48 + index, 40), (40 * index % 256, 200, 90))
    image.paste((255, 255, 0), (5 + index, 5, 20 + index, 25))
    return image


def save(path: Path, index: int) -> None:
    """Write a picture; the ending of the name decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(index).save(path)


def encoded(index: int) -> bytes:
    """A picture as the bytes of a JPEG file."""
    stream = io.BytesIO()
    picture(index).save(stream, "JPEG")
    return stream.getvalue()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], image_column: str = "image") -> None:
    """As the hub's datasets are written: a column of pictures that says what it is."""
    from datasets import Dataset, List
    from datasets import Image as ImageFeature

    path.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_list([dict(row) for row in rows])
    if image_column in table.column_names:
        several = any(isinstance(row[image_column], list) for row in rows)
        table = table.cast_column(image_column, List(ImageFeature()) if several else ImageFeature())
    table.to_parquet(str(path))


def as_cell(index: int) -> dict[str, Any]:
    """A picture in a cell of a table."""
    return {"bytes": encoded(index), "path": None}


# ---------------------------------------------------------------- one layout after the other


def jsonl(folder: Path) -> Fields:
    rows: list[dict[str, Any]] = [
        {"id": f"choice-{i}", "image": "x.png", "question": "Which?", "choices": ["p", "q"], "answer": i % 2}
        for i in range(4)
    ]
    rows += [{"id": f"free-{i}", "image": "x.png", "question": "What?", "answer": f"It {i}"} for i in range(4)]
    rows += [{"id": "open", "image": "x.png", "question": "What?"}]
    rows += [{"id": "open-choice", "image": "x.png", "question": "Which?", "choices": ["p", "q"]}]
    save(folder / "x.png", 0)
    write_json_lines(folder / "data.jsonl", rows)
    return {"path": str(folder / "data.jsonl")}


def scienceqa(folder: Path) -> Fields:
    """LLaVA's conversations, with the authors' file beside them for subjects and grades."""
    human = "Context: N/A\nQuestion: Which one?\nOptions: (A) this (B) that (C) both\n<image>"
    items = [
        {
            "id": str(i),
            "image": f"{i}/image.png",
            "conversations": [{"value": human}, {"value": f"The answer is {'ABC'[i % 3]}."}],
        }
        for i in range(6)
    ]
    items.append({"id": "open", "image": "open/image.png", "conversations": [{"value": human}]})
    for i, item in enumerate(items):
        save(folder / "images" / "test" / str(item["image"]), i)
    subjects = ("natural science", "social science", "language science")
    write_json(folder / "llava_test_CQM-A.json", items)
    known = {str(i): {"subject": subjects[i % 3], "grade": f"grade{i + 4}"} for i in range(6)}
    write_json(folder / "problems.json", known)
    return {"path": str(folder)}


def pope(folder: Path) -> Fields:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number,
                "image": f"COCO_val2014_{number // 3:012d}.jpg",
                "text": f"Is there a {thing} in the image?",
                "label": label,
            }
            for number, (thing, label) in enumerate([("dog", "yes"), ("cup", "no"), ("car", "yes"), ("cat", "no")], 1)
        ]
        write_json_lines(folder / f"coco_pope_{split}.json", rows)
    for number in range(2):
        save(folder / "val2014" / f"COCO_val2014_{number:012d}.jpg", number)
    return {"path": str(folder)}


def mme(folder: Path) -> Fields:
    """Both layouts of the release: with and without a folder for the questions."""
    for index, task in enumerate(("existence", "OCR", "code_reasoning")):
        for number in range(2):
            lines = f"Is it {task} {number}? Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n"
            split = task == "OCR"
            text = folder / task / ("questions_answers_YN" if split else "") / f"{number:04d}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(lines)
            save(folder / task / ("images" if split else "") / f"{number:04d}.{'jpg' if split else 'png'}", index)
    return {"path": str(folder)}


def _abilities(index: int) -> dict[str, str]:
    return {"category": f"ability {index % 2}", "l2-category": f"area_{index % 2}"}


def mmbench(folder: Path) -> Fields:
    """The table with all orders, whose later rows name the picture of the first."""
    rows = []
    for index in (7, 8, 9):
        options = ["red", "green", "blue", "grey"] if index != 8 else ["yes", "no"]
        for moved in range(len(options)):
            turned = options[moved:] + options[:moved]
            row = {
                "index": index + 1_000_000 * moved,
                "question": f"Which colour is number {index}?",
                "hint": "Look at the middle." if index == 7 else "",
                **dict.fromkeys("ABCD", ""),
                **dict(zip("ABCD", turned, strict=False)),
                "answer": "ABCD"[(index % len(options) - moved) % len(options)],
                **_abilities(index),
                "image": base64.b64encode(encoded(index)).decode() if moved == 0 else str(index),
            }
            rows.append(row)
    write_tsv(folder / "mmbench_dev_en.tsv", rows)
    return {"path": str(folder)}


def mmstar(folder: Path) -> Fields:
    rows = [
        {
            "index": index,
            "question": f"How many, number {index}?\nOptions: A: one, or none, B: two, C: six, D: nine",
            "answer": "ABCD"[index % 4],
            "category": ("math", "coarse perception")[index % 2],
            "l2_category": "geometry",
            "image": as_cell(index),
        }
        for index in range(6)
    ]
    write_parquet(folder / "mmstar.parquet", rows)
    return {"path": str(folder)}


def seedbench(folder: Path) -> Fields:
    questions = [
        {
            "question_id": f"{100 + index}",
            "question": f"What is at place {index}?",
            "choice_a": "a tree",
            "choice_b": "a house",
            "choice_c": "a river",
            "choice_d": "nothing",
            "answer": "ABCD"[index % 4],
            "data_id": f"{1000 + index}",
            "data_type": "image",
            "question_type_id": 1 + index % 2,
        }
        for index in range(5)
    ]
    video = {**questions[0], "question_id": "900", "data_type": "video", "data_id": "clip.mp4", "segment": [1, 2]}
    names = {"Scene Understanding": 1, "Instance Identity": 2}
    write_json(folder / "SEED-Bench.json", {"question_type": names, "questions": [*questions, video]})
    for index in range(5):
        path = folder / "SEED-Bench-image" / f"{1000 + index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index))  # the release's pictures have no ending
    return {"path": str(folder)}


def textvqa(folder: Path) -> Fields:
    data = [
        {
            "question_id": 34602 + index,
            "question": "what is written here?",
            "image_id": f"00aa{index}",
            "answers": [f"word {index}"] * 8 + ["unanswerable", "other"],
        }
        for index in range(4)
    ]
    secret = {"question_id": 40000, "question": "what else?", "image_id": "00aa0"}
    tokens = [{"image_id": f"00aa{index}", "ocr_tokens": ["WORD", str(index)]} for index in range(4)]
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": [*data, secret]})
    write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})
    for index in range(4):
        save(folder / "train_images" / f"00aa{index}.jpg", index)
    return {"path": str(folder)}


def vqav2(folder: Path) -> Fields:
    kinds = ("yes/no", "number", "other")
    said = ("yes", "two", "a red car")
    questions = [{"question_id": 1000 + i, "image_id": 40 + i // 3, "question": f"What about {i}?"} for i in range(6)]
    annotations = [
        {
            "question_id": 1000 + i,
            "image_id": 40 + i // 3,
            "answer_type": kinds[i % 3],
            "question_type": "what",
            "multiple_choice_answer": said[i % 3],
            "answers": [{"answer": said[i % 3], "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)],
        }
        for i in range(6)
    ]
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    for image in (40, 41):
        save(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", image)
    return {"path": str(folder)}


def gqa(folder: Path) -> Fields:
    said = (("verify", "yes"), ("query", "refrigerator"), ("choose", "left"), ("compare", "shirt"))
    questions = {
        f"2019{index}": {
            "imageId": f"n{index // 2}",
            "question": f"Which one is number {index}?",
            "answer": answer,
            "types": {"structural": kind, "semantic": "attr", "detailed": "x"},
            "isBalanced": True,
        }
        for index, (kind, answer) in enumerate(said)
    }
    write_json(folder / "testdev_balanced_questions.json", questions)
    for index in range(2):
        save(folder / "images" / f"n{index}.jpg", index)
    return {"path": str(folder)}


def amber(folder: Path) -> Fields:
    kinds = (
        "discriminative-hallucination",
        "discriminative-attribute-state",
        "discriminative-attribute-number",
        "discriminative-attribute-action",
        "relation",
    )
    describe = "Describe this image."
    queries: list[dict[str, Any]] = [{"id": i, "image": f"AMBER_{i}.jpg", "query": describe} for i in (1, 2)]
    annotations: list[dict[str, Any]] = [
        {"id": 1, "type": "generative", "truth": ["tree", "dog"], "hallu": ["person"]},
        {"id": 2, "type": "generative", "truth": ["sea"], "hallu": ["boat", "bird"]},
    ]
    for index in range(10):
        queries.append({"id": 3 + index, "image": f"AMBER_{index % 2 + 1}.jpg", "query": f"Is number {index} there?"})
        annotations.append({"id": 3 + index, "type": kinds[index % 5], "truth": "yes" if index < 5 else "no"})
    relation = {
        "tree": ["oak", "trunk"], "dog": ["puppy"], "person": ["man", "woman"], "sea": ["ocean", "wave"],
        "boat": ["ship"], "bird": ["gull"],
    }  # fmt: skip
    write_json(folder / "data" / "query" / "query_all.json", queries)
    write_json(folder / "data" / "annotations.json", annotations)
    write_json(folder / "data" / "relation.json", relation)
    (folder / "data" / "safe_words.txt").write_text("wave\nscene\n")
    for i in (1, 2):
        save(folder / "image" / f"AMBER_{i}.jpg", i)
    return {"path": str(folder)}


def chair(folder: Path) -> Fields:
    names = {1: "person", 18: "dog", 58: "hot dog", 67: "dining table"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    images = [{"id": image, "file_name": f"COCO_val2014_{image:012d}.jpg"} for image in (42, 73, 74)]
    boxes = [(42, 1), (42, 67), (73, 58), (74, 18)]
    instances = [{"id": n, "image_id": image, "category_id": category} for n, (image, category) in enumerate(boxes)]
    texts = {
        42: ("A man eats.", "Two people eat."),
        73: ("A hot dog on a plate.", "Food beside a laptop."),
        74: ("A puppy runs.",),
    }
    captions = [{"image_id": image, "caption": text} for image, several in texts.items() for text in several]
    write_json(
        folder / "annotations" / "instances_val2014.json",
        {"images": images, "annotations": instances, "categories": categories},
    )
    write_json(folder / "annotations" / "captions_val2014.json", {"images": images, "annotations": captions})
    for image in (42, 73, 74):
        save(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", image)
    return {"path": str(folder)}


def lmms(folder: Path) -> Fields:
    """One of lmms-eval's tasks stands for all; where lmms-eval is not installed, what asks for it is skipped."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see .ci/lmms.txt)")
    from tests.benchmarks.lmms_data import scienceqa as scienceqa_of_the_hub

    return {"task": "scienceqa_img", "path": str(scienceqa_of_the_hub(folder))}


LAYOUTS: dict[str, Callable[[Path], Fields]] = {
    "amber": amber,
    "chair": chair,
    "gqa": gqa,
    "jsonl": jsonl,
    "lmms": lmms,
    "mmbench": mmbench,
    "mme": mme,
    "mmstar": mmstar,
    "pope": pope,
    "scienceqa": scienceqa,
    "seedbench": seedbench,
    "textvqa": textvqa,
    "vqav2": vqav2,
}
"""By the benchmark's name: writes its data into a folder and says with which fields they are loaded."""
