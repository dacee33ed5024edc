"""The type of a run's summary: what metrics.json holds and --json prints."""

from collections.abc import Mapping
from typing import Any, TypedDict

from clear_ref.common.guards import Guard

from .bootstrap import Interval
from .metrics import Scores
from .robustness_results import Robustness


class TrainedParts(TypedDict):
    """How much of a model a run trains.

    tensors, parameters  number of trained tensors, and of the numbers in them
    of                   number of parameters of the whole model
    layers               number of layers with adapters; 0: full fine-tuning
    """

    tensors: int
    parameters: int
    of: int
    layers: int


class Seconds(TypedDict, total=False):
    """Wall time of the parts of a run."""

    train: float
    evaluate: float
    robustness: float


class Kept(TypedDict):
    """Which evaluation during a training the run's weights are from (--keep).

    rule                  its name, see selection.py
    step, epoch, last     the chosen step, its epoch (from 0), and the last step of the training
    meets                 whether the chosen point meets the rule's condition on Retain
    choosing, reporting   its scores on the half of the records that chose it, and on the other half
    """

    rule: str
    step: int
    epoch: int
    last: int
    meets: bool
    choosing: dict[str, float]
    reporting: dict[str, float]


class Summary(TypedDict, total=False):
    """What a run found.

    method, semantics, modality  of an unlearning run
    command                      finetune or evaluate, for these
    split                        of finetune
    model, adapter               of evaluate
    recipe, lr, epochs           the training's recipe by name, its peak rate and passes
    options                      {option of the method: value}, those that are not the default
    notes                        what the scores say, in sentences
    guards                       those that fired (common/guards.py); only where there are any
    curves                       the lines of curve.jsonl, with --evaluate-every
    not_asked                    {task of --leakage: why records could not be asked}, if any
    kept                         with --keep best:RULE
    models                       {"base", "gold", "unlearned", ...: metrics}
    definitions                  {metric: name of its definition}
    definition_versions          {metric: version of its definition}
    intervals                    {model: {set of definitions: {number: [low, high]}}}, 95 %, over
                                 the records (bootstrap.py); a part of a task is "TASK PART"
    """

    method: str
    command: str
    split: str
    model: str
    adapter: str
    semantics: str
    modality: str
    seed: int
    impl: str
    recipe: str
    lr: float
    options: dict[str, Any]
    epochs: int
    trained: TrainedParts
    steps: int
    seconds: Seconds
    robustness: Robustness
    not_asked: dict[str, list[str]]
    curves: list[dict[str, Any]]
    kept: Kept
    models: dict[str, Scores]
    notes: list[str]
    guards: list[Guard]
    definitions: dict[str, str]
    definition_versions: dict[str, int]
    intervals: dict[str, Mapping[str, Mapping[str, Interval]]]
    out: str
