"""Every key that ``eval.py`` and ``train.py`` take, with its type, default and sentence; YAML only overrides.

``model``, ``benchmark``, ``trainer`` and ``logger`` are groups: ``model=pico`` is short for ``model.name=pico`` and
reads ``configs/model/pico.yaml``. The fields of ``benchmark`` and ``method`` are those of the discovered classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

GROUPS = ("model", "benchmark", "trainer", "logger")
"""Sections whose name chooses a file of ``configs/``."""


class Dtype(str, Enum):
    """Floating-point type of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Quantization(str, Enum):
    """Weight quantization of the language model (needs bitsandbytes and a GPU)."""

    NONE = "none"
    BITS8 = "8bit"
    BITS4 = "4bit"


class OnError(str, Enum):
    """What happens to a sample that fails."""

    RECORD = "record"
    RAISE = "raise"


class Analysis(str, Enum):
    """What is looked at once the answers are there."""

    NONE = "none"
    FLOW = "flow"


class FlowTarget(str, Enum):
    """Score of the answer that gradients are of: the sum of its tokens' logits, or of their log-probabilities."""

    LOGIT = "logit"
    LOG_PROB = "log_prob"


class FlowQueries(str, Enum):
    """Whose attention is asked about: all tokens that predict the answer, or the prompt's last token."""

    ANSWER = "answer"
    PROMPT = "prompt"


class BudgetDefinition(str, Enum):
    """What a number in ``budgets`` counts. Every result states all of them whichever is chosen."""

    INPUT = "input"
    FINAL = "final"
    LAYER_MEAN = "layer_mean"
    FLOPS = "flops"


@dataclass(kw_only=True)
class ModelConfig:
    """The model that answers.

    Args:
        name: a file of configs/model/, or anything with a slash: a Hugging Face id or a local folder.
        path: pico, pico-unaligned, a Hugging Face id or a local folder; the file given by name sets it.
        revision: branch, tag or commit of a Hugging Face id.
        dtype: floating-point type of the weights; auto takes the checkpoint's, and float32 without an accelerator.
        device_map: spread one model over devices (auto, balanced, ...); null puts it on the trainer's device.
        attn_implementation: sdpa, eager, flash_attention_2, ...; null lets transformers choose.
        quantization: load the weights quantized (needs bitsandbytes and a GPU).
        trust_remote_code: run Python code that comes with the checkpoint; only for checkpoints that you trust.
        adapter: folder or Hugging Face id of a PEFT adapter that is put on the model (needs the extra lora).
    """

    name: str = "pico"
    path: str
    revision: str | None = None
    dtype: Dtype = Dtype.AUTO
    device_map: str | None = None
    attn_implementation: str | None = None
    quantization: Quantization = Quantization.NONE
    trust_remote_code: bool = False
    adapter: str | None = None


@dataclass(kw_only=True)
class TrainerConfig:
    """Where and in what portions the answers are computed.

    Args:
        name: a file of configs/trainer/.
        accelerator: auto, cpu, gpu, ... as Lightning's Trainer takes it.
        devices: how many devices, or auto: all there are, or those that torchrun started.
        num_nodes: how many machines.
        devices_per_replica: for models larger than one GPU: so many GPUs for each process, which spreads its model over
            them; devices then counts processes.
        strategy: Lightning's strategy; auto is ddp on several devices, fsdp2 shares one model out over all of them.
        timeout_hours: how long processes wait for the slowest one.
        precision: Lightning's precision; null computes in the type of the weights.
        batch_size: samples that are answered together on one device; auto begins with 64. A batch that does not fit
            into memory is halved, whatever its size.
        share_images: let the untouched model read a picture once for all questions of a batch about it.
        num_workers: processes per device that open images; 0 opens them in the main process.
        max_new_tokens: tokens generated at most per answer; null takes the benchmark's.
        progress: show progress bars.
        on_error: record a failing sample as its own error and go on, or raise.
    """

    name: str = "auto"
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    devices_per_replica: int = 1
    strategy: str = "auto"
    timeout_hours: float = 24.0
    precision: str | None = None
    batch_size: int | str = 16
    share_images: bool = True
    num_workers: int = 0
    max_new_tokens: int | None = None
    progress: bool = True
    on_error: OnError = OnError.RECORD


@dataclass(kw_only=True)
class LoggerConfig:
    """Where else results go; the run folder is always written.

    Args:
        name: a file of configs/logger/.
        project: project in W&B.
        entity: user or team in W&B; null takes your default.
        group: runs of one group are shown together in W&B.
        tags: labels of the run in W&B.
        offline: write W&B's files without a connection; `wandb sync` uploads them later. The same happens where nobody
            is signed in and where W&B does not answer.
        max_rows: lines of W&B's table of samples at most; those with pictures come first.
    """

    name: str = "none"
    project: str = "lit_simignore"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    offline: bool = False
    max_rows: int = 200


@dataclass(kw_only=True)
class ReportConfig:
    """The HTML report.

    Args:
        samples: so many samples, the first ones, are kept with picture and kept tokens; 0 keeps none.
    """

    samples: int = 24


@dataclass(kw_only=True)
class EfficiencyConfig:
    """The timing pass: all methods in turn on the same batches, apart from the answers.

    Args:
        samples: samples that are timed; 0 leaves the pass out.
        batch_size: samples per timed batch.
        repeats: timed rounds over these samples, after one that is not counted.
        decode_tokens: tokens generated after the first one.
    """

    samples: int = 16
    batch_size: int = 1
    repeats: int = 3
    decode_tokens: int = 8


@dataclass(kw_only=True)
class FlowConfig:
    """Information flow of the untouched model, with analysis=flow: figures in the report, arrays in flow/ of the run.

    Args:
        samples: samples that shares of attention and sinks are averaged over, spread over the benchmark.
        shown: so many of the report's samples are shown one by one, with maps of every layer.
        layers: 0-based decoder layers, as in [0,1,2]; [] looks at all.
        methods: methods whose kept tokens are shown side by side; [] shows all of the run.
        truncation: samples that all layers of truncation are tried on, to find the cliff; 0 leaves it out.
        tolerance: loss of accuracy that still counts as none, when the cliff is looked for.
        clusters: clusters of visual tokens per image, which are left out in turn; 0 leaves them out.
        smooth: noisy copies of the picture that maps are averaged over (SmoothGrad); 0 takes the picture itself.
        sigma: standard deviation of that noise, in units of the processed pixels.
        target: score of the answer that gradients are of.
        queries: whose attention is asked about.
        batch_size: samples at a time; each keeps one forward pass for the gradients.
    """

    samples: int = 64
    shown: int = 6
    layers: list[int] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    truncation: int = 96
    tolerance: float = 0.02
    clusters: int = 5
    smooth: int = 0
    sigma: float = 0.1
    target: FlowTarget = FlowTarget.LOGIT
    queries: FlowQueries = FlowQueries.ANSWER
    batch_size: int = 8


@dataclass(kw_only=True)
class RunConfig:
    """Where the run is written.

    Args:
        dir: folder that holds the run folders.
        name: name of the run folder; null makes it model-benchmark-<hash of model, data and decoding>.
    """

    dir: str = "runs"
    name: str | None = None


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluate methods on one model and one benchmark, all on the same samples.

    Args:
        experiment: overlay from experiments/ that is read between configs/ and the command line, or a YAML file. Where
            config.MODEL.yaml lies beside its config.yaml, model=MODEL is given that as well.
        model: the model that answers.
        benchmark: the questions: a name, and the fields of that benchmark.
        methods: files of configs/method/; a+b composes, a@field=value is a named variant, a@64 keeps 64 visual tokens.
        method: fields of methods: method.NAME.FIELD, or method.NAME.PART.FIELD for a method of several parts.
        budget: match all methods that prune on one number of visual tokens: 192, or layer_mean:192 to say what counts.
        budgets: repeat every method that prunes with each of these numbers of visual tokens, as a curve.
        budget_definition: what a number in budget, in budgets or after @ counts, unless it says so itself.
        trainer: where and in what portions the answers are computed.
        logger: where else results go.
        report: the HTML report.
        efficiency: the timing pass.
        analysis: what is looked at once the answers are there: flow asks where they come from.
        flow: the settings of analysis=flow.
        run: where the run is written.
        overwrite: throw away what the run folder holds and start anew, instead of continuing.
        compare: two runs, each FOLDER or FOLDER:METHOD, to compare on their common samples; nothing else is run.
        seed: seed of the bootstrap intervals; answers are greedy, and random methods have a seed of their own.
    """

    experiment: str | None = None
    model: ModelConfig
    benchmark: dict[str, Any] = field(default_factory=lambda: {"name": "shapesqa"})
    methods: list[str] = field(
        default_factory=lambda: ["baseline", "simignore", "random", "stride", "least-similar", "text-only", "eah"]
    )
    method: dict[str, Any] = field(default_factory=dict)
    budget: str | None = None
    budgets: list[int] = field(default_factory=list)
    budget_definition: BudgetDefinition = BudgetDefinition.FINAL
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
    analysis: Analysis = Analysis.NONE
    flow: FlowConfig = field(default_factory=FlowConfig)
    run: RunConfig = field(default_factory=RunConfig)
    overwrite: bool = False
    compare: list[str] = field(default_factory=list)
    seed: int = 0


class Source(str, Enum):
    """What fine-tuning learns from."""

    SHAPES = "shapes"
    CONVERSATIONS = "conversations"
    BENCHMARK = "benchmark"


class Side(str, Enum):
    """Where shorter rows of a batch are padded."""

    LEFT = "left"
    RIGHT = "right"


class TooLong(str, Enum):
    """What happens to a conversation that has too many tokens."""

    RAISE = "raise"
    DROP = "drop"


class Tuned(str, Enum):
    """Which weights are trained."""

    LORA = "lora"
    PROJECTOR = "projector"
    FULL = "full"


class Schedule(str, Enum):
    """How the amount of pruning changes over a training."""

    CONSTANT = "constant"
    ANNEALED = "annealed"


@dataclass(kw_only=True)
class DataConfig:
    """What is learned from.

    Args:
        source: shapes (generated training scenes), conversations (a file or a hub id), or benchmark (the questions
            and answers of a split that is not the one that is evaluated).
        path: with conversations, a .json, .jsonl or .parquet file, a folder of Parquet files, or owner/dataset.
        images: with conversations, the folder that relative image paths belong to; null is the file's own.
        split: with conversations, the split of a hub id.
        revision: with conversations, branch, tag or commit of a hub id.
        benchmark: with benchmark, its name and fields, as under benchmark.
        scenes: with shapes, how many different scenes there are.
        limit: use only the first so many conversations; null uses all.
        check_images: open every picture before the first step, instead of only looking whether it is there.
        padding_side: left, as in evaluation, or right.
        max_tokens: tokens of a conversation at most, those of its images included, before pruning; null takes what
            tokenizer and model admit.
        too_long: what happens to a longer conversation, before the first step: raise names it, drop leaves all of them
            out and says how many.
    """

    source: Source = Source.SHAPES
    path: str | None = None
    images: str | None = None
    split: str = "train"
    revision: str | None = None
    benchmark: dict[str, Any] = field(default_factory=dict)
    scenes: int = 100_000
    limit: int | None = None
    check_images: bool = False
    padding_side: Side = Side.LEFT
    max_tokens: int | None = None
    too_long: TooLong = TooLong.RAISE


@dataclass(kw_only=True)
class TuningConfig:
    """Which weights are trained.

    Args:
        kind: lora (adapters in the decoder), projector (nothing else), or full (decoder, output layer and projector).
        rank: of the adapters.
        alpha: the scale of the adapters is alpha / rank.
        dropout: on the input of the adapters.
        targets: last names of the decoder's linear layers that get adapters.
        projector: with lora, train the projector as well; it is saved with the adapter.
        vision: with full, train the vision tower as well.
        gradient_checkpointing: compute activations twice instead of keeping them.
    """

    kind: Tuned = Tuned.LORA
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    projector: bool = False
    vision: bool = False
    gradient_checkpointing: bool = False


@dataclass(kw_only=True)
class TrainingConfig:
    """How weights move.

    Args:
        steps: optimiser steps.
        batch_size: conversations per step, over all devices: the result does not depend on how many there are.
        micro_batch_size: conversations that a device computes at a time; null shares a step out evenly.
        lr: largest learning rate of AdamW.
        warmup_ratio: share of the steps in which the learning rate rises; a cosine follows.
        weight_decay: decoupled, on matrices only.
        clip: largest norm of the gradient; null does not clip.
        ema: average the weights over the steps, exponentially, and validate and write the average: the share of it that
            a late step keeps, such as 0.99; null averages nothing.
    """

    steps: int = 200
    batch_size: int = 16
    micro_batch_size: int | None = None
    lr: float = 5e-4
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    clip: float | None = 1.0
    ema: float | None = None


@dataclass(kw_only=True)
class ScheduleConfig:
    """How the amount of pruning changes over the training.

    Args:
        kind: constant, or annealed: the keep ratio falls linearly from start to what the method says.
        steps: steps that the fall takes; null is half of the training.
        start: keep ratio of the first step when annealed.
    """

    kind: Schedule = Schedule.CONSTANT
    steps: int | None = None
    start: float = 1.0


@dataclass(kw_only=True)
class OutcomeConfig:
    """What the benchmark is asked before and after the training.

    Args:
        before: answer it with the model as it was.
        after: answer it with the trained model, loaded from what was written.
        methods: as in eval.py; null takes the untouched model and the pruning of the training.
    """

    before: bool = True
    after: bool = True
    methods: list[str] | None = None


@dataclass(kw_only=True)
class ValidationConfig:
    """Validation while training, by the same evaluator, on other samples than the benchmark's.

    Args:
        every: optimiser steps between two validations; 0 leaves them out.
        samples: how many are answered.
        patience: end the training after so many validations without a better accuracy, and keep the weights of the best
            one; null trains to the end and keeps the last weights.
        benchmark: fields that differ from the benchmark's, such as split=val; a benchmark that is drawn from a seed
            takes the next one by itself.
    """

    every: int = 0
    samples: int = 64
    patience: int | None = None
    benchmark: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept.

    Args:
        every: optimiser steps between two checkpoints that a killed run goes on from; only the last one is kept.
        whole_model: write a whole model (adapters merged in) instead of the adapter.
    """

    every: int = 50
    whole_model: bool = False


@dataclass(kw_only=True)
class TrainConfig:
    """Fine-tune a model with pruning switched on, and show what it brought.

    Args:
        experiment: overlay from experiments/ or configs/finetune/ that is read before the command line, or a YAML file,
            and config.MODEL.yaml beside its config.yaml with model=MODEL.
        task: finetune, or pico: train the bundled model from scratch.
        model: the model that is trained.
        data: what is learned from.
        pruning: the method that prunes while training, as in eval.py; baseline trains on all visual tokens.
        method: fields of methods: method.NAME.FIELD, or method.NAME.PART.FIELD for a method of several parts.
        schedule: how the amount of pruning changes over the training.
        tuning: which weights are trained.
        training: how they move.
        benchmark: the held-out questions: a name, and the fields of that benchmark.
        outcome: what the benchmark is asked before and after.
        validation: validation while training.
        checkpoint: what is kept.
        trainer: where it runs; strategy also takes fsdp2 and, where it is installed, deepspeed; batch_size is that of
            the evaluations.
        logger: where losses, validations and results go beside the run folder.
        run: where the run is written.
        overwrite: throw away what the run folder holds and start anew, instead of continuing.
        seed: of adapters, order, dropout and the bootstrap intervals.
    """

    experiment: str | None = None
    task: str = "finetune"
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    pruning: str = "simignore@keep_ratio=0.25"
    method: dict[str, Any] = field(default_factory=dict)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    benchmark: dict[str, Any] = field(default_factory=lambda: {"name": "shapesqa"})
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    overwrite: bool = False
    seed: int = 0
