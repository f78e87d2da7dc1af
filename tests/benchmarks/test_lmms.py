"""Tasks of lmms-eval through our loop. The oracle: lmms-eval's own evaluator, the same data, the same answers."""

from __future__ import annotations

import importlib.metadata
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_simignore import cli
from lit_simignore.benchmarks import _lmms_tasks as tasks
from lit_simignore.benchmarks.lmms import LMMSEval
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.plugins import VARIABLE
from lit_simignore.types import Prediction, Role, Sample, UserError
from tests.benchmarks import lmms_data

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see .ci/lmms.txt)")
OFFICIAL_POPE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "pope" / "coco_pope_adversarial.json"
Answer = Callable[[int, str], str]


# ---------------------------------------------------------------- lmms-eval itself


def _own_result(task: str, folder: Path, model: Any, **settings: Any) -> dict[str, Any]:
    """What lmms-eval's evaluator says: the task finds ``folder`` as it would find the hub's dataset."""
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    # 0.7.3 changes insides of filelock that current releases no longer have, for locks that nobody shares here.
    evaluator._enable_reentrant_filelocks._patched = True
    home = tasks.find_task(task).file.parent
    manager = TaskManager(include_path=str(home), include_defaults=False)
    changed = {"task": task, "dataset_path": str(folder), "dataset_kwargs": {}}
    if model == "llava_hf":  # asks by messages, which a task given by its settings is not made for
        changed = manager._load_individual_task_or_group(changed, task_type="chat")[task]
    found = evaluator.simple_evaluate(
        model, tasks=[changed], task_manager=manager, bootstrap_iters=0, batch_size=1, **settings
    )
    assert found is not None
    return dict(found)


def _metrics(found: Mapping[str, Any], task: str) -> dict[str, float]:
    """The aggregates alone, without errors and names."""
    return {
        name.removesuffix(",none"): value
        for name, value in found["results"][task].items()
        if name.endswith(",none") and "_stderr" not in name
    }


def _scripted(answer: Answer) -> Any:
    from lmms_eval.api.model import lmms

    class Scripted(lmms):
        """Says what it was told to, up to where the task ends an answer, as lmms-eval asks of its models."""

        def generate_until(self, requests: Any) -> list[str]:
            said = []
            for _, settings, visual, index, task, split in (request.args for request in requests):
                assert visual(self.task_dict[task][split][index])
                said.append(_until(answer(index, task), settings.get("until") or []))
            return said

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        generate_until_multi_round = loglikelihood

    return Scripted()


def _until(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.split(end)[0]
    return text


# ---------------------------------------------------------------- ours


def _predictions(benchmark: LMMSEval, samples: Sequence[Sample], answer: Answer) -> list[Prediction]:
    """Records as a run has them."""
    made = []
    for sample in samples:
        output = answer(int(sample.sample_id), benchmark.task).strip()
        entry = Prediction(sample.sample_id, "baseline", sample.group_id, sample.prompt, sample.answer, output=output)
        entry.parsed = benchmark.parse(output, sample)
        entry.score = benchmark.score(entry.parsed, sample)
        made.append(entry)
    return made


SAID = ("A", "B", "b", "C.", "B. a dog", "(A)", "The answer is A", "", "D", "yes", "No", "Yes.", "no, there is none",
        "maybe", "A\n\nB", "YES", " no ", "two")  # fmt: skip
"""Right ones, wrong ones, and such as cannot be read, for letters and for yes and no."""


def _drawn(index: int, task: str) -> str:
    return random.Random(f"{task}{index}").choice(SAID)


@pytest.mark.slow
def test_scienceqa_scores_what_lmms_eval_scores(tmp_path: Path) -> None:
    folder = lmms_data.scienceqa(tmp_path, num=120)
    benchmark = LMMSEval(task="scienceqa_img", path=str(folder))
    own = _metrics(_own_result("scienceqa_img", folder, _scripted(_drawn)), "scienceqa_img")
    predictions = _predictions(benchmark, benchmark.load(), _drawn)
    assert benchmark.aggregate(predictions) == own
    scores = [entry.score for entry in predictions if entry.score is not None]
    assert len(scores) == 120 and sum(scores) / 120 == pytest.approx(own["exact_match"])
    assert 0.05 < own["exact_match"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pope", "pope_adv"])
def test_pope_scores_what_lmms_eval_scores(tmp_path: Path, task: str) -> None:
    rows = None
    if OFFICIAL_POPE.is_file():
        rows = [dict(row) for _, row in read_json_lines(OFFICIAL_POPE).rows][:300]
    folder = lmms_data.pope(tmp_path, rows)
    benchmark = LMMSEval(task=task, path=str(folder))
    own = _metrics(_own_result(task, folder, _scripted(_drawn)), task)
    samples = benchmark.load()
    assert benchmark.aggregate(_predictions(benchmark, samples, _drawn)) == own
    assert set(own) == set(benchmark.headline) and len(own) == 5
    if rows:
        assert len(samples) == 300 and len({sample.group_id for sample in samples}) == 50
        assert len({own[name] for name in own}) == 5 and all(0 < value < 1 for value in own.values())


@pytest.mark.slow
def test_a_checkpoint_scores_the_same_under_llava_hf_and_under_our_command(tmp_path: Path) -> None:
    checkpoint = _letters_and_words(tmp_path / "checkpoint")
    for task, make in (("scienceqa_img", lmms_data.scienceqa), ("pope", lmms_data.pope)):
        folder = make(tmp_path / task)
        theirs = _own_result(
            task, folder, "llava_hf", model_args=f"pretrained={checkpoint},device_map=cpu", device="cpu",
            gen_kwargs="max_new_tokens=1",
        )  # fmt: skip
        ours = tmp_path / "runs" / task
        code = cli.eval_main(
            ["benchmark=lmms", f"benchmark.task={task}", f"benchmark.path={folder}", f"model.path={checkpoint}",
             "methods=[baseline]", f"run.dir={ours.parent}", f"run.name={task}", "efficiency.samples=0",
             "report.samples=0", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.max_new_tokens=1",
             "trainer.batch_size=4"]
        )  # fmt: skip
        assert code == 0
        said = {row["doc_id"]: row["filtered_resps"][0].strip() for row in theirs["samples"][task]}
        lines = [json.loads(line) for file in ours.glob("predictions-*") for line in file.open()]
        assert {int(line["sample_id"]): line["output"] for line in lines} == said
        assert len(set(said.values())) > 1
        (row,) = json.loads((ours / "summary.json").read_text())["methods"]
        assert row["extra"] == _metrics(theirs, task)
        assert task == "pope" or 0 < row["extra"]["exact_match"] < 1


def _letters_and_words(folder: Path) -> Path:
    """The tiny LLaVA, made to answer with a letter or with yes or no: otherwise every score would be 0."""
    import torch

    from tests.tiny_checkpoints import PROCESSORS, save_tiny_checkpoint
    from tests.tiny_families import tiny_family

    save_tiny_checkpoint("llava", folder)
    model, processor = tiny_family("llava"), PROCESSORS["llava"]()
    allowed = processor.tokenizer.convert_tokens_to_ids(["A", "B", "C"])
    with torch.no_grad():
        head = model.lm_head.weight
        head[[token for token in range(len(head)) if token not in allowed]] = 0
    model.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- what is asked and shown


def test_samples_are_what_the_task_asks_with_its_template_marked(tmp_path: Path) -> None:
    benchmark = LMMSEval(task="scienceqa_img", path=str(lmms_data.scienceqa(tmp_path)))
    first, second, *_ = benchmark.load()
    assert first.prompt == (
        "Context: Look closely.\nWhich one floats?\nA. this\nB. that\nC. both\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [segment.role for segment in first.segments] == [Role.QUESTION, Role.TEMPLATE]
    assert second.prompt.startswith("What is this?\nA. a cat\nB. a dog\n")
    assert [sample.answer for sample in benchmark.load()] == ["A", "B", "C", "A", "A", "B", "A", "B", "A"]
    assert (benchmark.max_new_tokens, benchmark.headline) == (16, ("exact_match",))
    (draw,) = first.images
    assert callable(draw) and draw().size == (48, 40) and draw().mode == "RGB"


def test_no_picture_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = LMMSEval(task="pope", path=str(lmms_data.pope(tmp_path)))
    benchmark._loaded()
    from datasets.features.image import Image as Feature

    monkeypatch.setattr(Feature, "decode_example", lambda *_, **__: pytest.fail("decoded"))
    samples = benchmark.load()
    assert len(samples) == 6 and all(len(sample.images) == 1 for sample in samples)
    assert [sample.group_id == samples[0].group_id for sample in samples] == [True] * 3 + [False] * 3


def test_an_answer_ends_where_the_task_says(tmp_path: Path) -> None:
    benchmark = LMMSEval(task="scienceqa_img", path=str(lmms_data.scienceqa(tmp_path)))
    sample = benchmark.load()[0]
    assert benchmark.parse("A\n\nbecause", sample) == "A"
    assert benchmark.parse(" \n\n", sample) is None
    assert benchmark.score("A", sample) == 1 and benchmark.score(None, sample) == 0


# ---------------------------------------------------------------- tasks of one's own, and what they bring


TASK = """
task: {name}
dataset_path: nowhere/at-all
output_type: {kind}
test_split: test
doc_to_visual: !function mine.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
process_results: !function mine.results
generation_kwargs: {{max_new_tokens: 7, until: ["STOP"]{more}}}
metric_list:
  - {{metric: distance, aggregation: mean, higher_is_better: false}}
  - {{metric: pairs, aggregation: !function mine.by_name, higher_is_better: true}}
  - {{metric: broken, aggregation: !function mine.broken, higher_is_better: true}}
metadata: {{version: 3}}
"""
CODE = """
import random

def visual(doc):
    return [doc["image"].crop((0, 0, 5, 5))] if doc["image"].size != (1, 1) else undefined

def results(doc, results):
    guess = random.random()
    return {"distance": 0.25 if results[0] == doc["answer"] else 1, "pairs": (guess, 1), "broken": 0}

def by_name(values):
    return {"Guess ed": sum(value for value, _ in values), "none": None, "name": "x", "bad": float("nan")}

def broken(values):
    raise KeyError("gone")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "mine" / tasks.PLUGIN_FOLDER
    home.mkdir(parents=True)
    (home / "mine.py").write_text(CODE)
    (home / "mine.yaml").write_text(TASK.format(name="mine_own", kind="generate_until", more=""))
    (home / "drawn.yaml").write_text(
        TASK.format(name="mine_drawn", kind="generate_until", more=", do_sample: true, temperature: 0.7")
    )
    (home / "rounds.yaml").write_text(TASK.format(name="mine_rounds", kind="generate_until_multi_round", more=""))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    rows = [{"image": lmms_data.as_cell(i), "question": "What?", "answer": "x"} for i in range(3)]
    lmms_data.write_parquet(tmp_path / "data" / "test-0.parquet", rows)
    return tmp_path / "data"


def test_a_task_of_a_plugin_folder_is_run_as_its_code_says(plugin: Path) -> None:
    benchmark = LMMSEval(task="mine_own", path=str(plugin))
    samples = benchmark.load()
    assert [sample.images[0]().size for sample in samples] == [(5, 5)] * 3  # type: ignore[operator]
    assert benchmark.max_new_tokens == 7 and benchmark.identity()["metadata"] == {"version": 3}
    # lower is better for the first metric, and scores are always better when they are higher
    assert benchmark.score(benchmark.parse("xSTOPy", samples[0]), samples[0]) == 0.75
    assert benchmark.score("y", samples[0]) == 0.0
    predictions = _predictions(benchmark, samples, lambda index, task: "x" if index else "y")
    with pytest.warns(UserWarning, match="no broken: KeyError"):
        found = benchmark.aggregate(predictions)
    assert found["distance"] == 0.5 and set(found) == {"distance", "pairs_guess_ed"}


def test_guesses_of_a_task_are_the_same_whenever_a_run_is_summed_up(plugin: Path) -> None:
    def guesses(limit: int) -> list[float]:
        benchmark = LMMSEval(task="mine_own", path=str(plugin))
        documents = benchmark._loaded()
        random.seed(limit)
        return [documents.results(index, "x")["none"]["pairs"][0] for index in range(limit)]

    state = random.getstate()
    assert guesses(3)[:2] == guesses(2) and len(set(guesses(3))) == 3
    random.setstate(state)
    following = random.random()
    random.setstate(state)
    LMMSEval(task="mine_own", path=str(plugin))._loaded().results(0, "x")
    random.setstate(state)
    assert random.random() == following


def test_changed_code_of_a_task_is_another_run(plugin: Path) -> None:
    before = LMMSEval(task="mine_own", path=str(plugin)).identity()
    code = tasks.find_task("mine_own").file.with_name("mine.py")
    code.write_text(CODE.replace("0.25", "0.5"))
    after = LMMSEval(task="mine_own", path=str(plugin)).identity()
    assert {key for key in before if before[key] != after[key]} == {"task"}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("mine_drawn", "draws its answers at random"),
        ("mine_rounds", "has output_type generate_until_multi_round"),
        ("mine_onw", "did you mean 'mine_own'"),
        ("videomme", "shows videos"),
        ("", "expected benchmark.task="),
    ],
)
def test_what_the_loop_cannot_run_is_refused_before_any_code_runs(plugin: Path, task: str, said: str) -> None:
    tasks.find_task("mine_own").file.with_name("mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=said) as caught:
        LMMSEval(task=task, path=str(plugin)).identity()
    assert "\n" not in str(caught.value)


def test_data_that_are_not_there_or_not_the_tasks_are_named(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is at 'nowhere'"):
        LMMSEval(task="mine_own", path="nowhere").identity()
    with pytest.raises(UserError, match="scienceqa_img' cannot be loaded: KeyError: 'hint'"):
        LMMSEval(task="scienceqa_img", path=str(plugin)).load()
    for subset in "ab":
        lmms_data.write_parquet(tmp_path / "two" / subset / "test-0.parquet", [{"question": "What?"}])
    with pytest.raises(UserError, match="several subsets"):
        LMMSEval(task="mine_own", path=str(tmp_path / "two")).load()
    with pytest.raises(UserError, match="no prompts for 'qwen'; did you mean 'qwen_vl'"):
        LMMSEval(task="scienceqa_img", path=str(plugin), prompts="qwen").identity()


def test_a_configuration_cannot_name_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    (tmp_path / "mine.yaml").write_text(TASK.format(name="mine_own", kind="generate_until", more=""))
    for task in ("mine_own", str(tmp_path / "mine.yaml"), "../mine"):
        with pytest.raises(UserError, match="has no task"):
            LMMSEval(task=task, path=str(tmp_path)).identity()


def test_without_lmms_eval_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install 'lit_simignore\[lmms\]'"):
        LMMSEval(task="pope").identity()


def test_the_index_read_from_text_is_the_one_that_yaml_gives() -> None:
    from lmms_eval.tasks import TaskManager

    home = tasks.find_task("pope").file.parents[1]
    found = tasks._index((home,))
    for folder in ("pope", "scienceqa", "mme", "mmbench", "seedbench", "textvqa"):
        manager = TaskManager(include_path=str(home / folder), include_defaults=False)
        assert {name for name, file in found.items() if home / folder in file.parents} == set(manager.all_subtasks)
