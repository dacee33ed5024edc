"""Settings of the four benchmarks, and the names that they choose from."""

from dataclasses import dataclass

from clear_ref.common.settings import setting

KINDS = ("kernel", "head", "step", "likelihood")
DTYPES = ("float32", "bfloat16")
PEER_NAMES = (
    "ours native",
    "ours one pass",
    "ours torch",
    "eager",
    "eager fp32",
    "eager tuned",
    "compile eager",
    "compile tuned",
    "liger",
    "ours native ce",
    "liger ce",
    "flash-attn ce",
    "ours native head",
    "cut cross-entropy",
    "linear_cross_entropy",
)
METHODS = ("grad_diff", "kl", "scrub", "llmu")
EVALUATIONS = ("generate", "likelihood")
STEP_TASKS = (*METHODS, "kl all rows", "scrub all rows", "llmu all rows", *EVALUATIONS)


@dataclass(frozen=True)
class BenchSettings:
    """bench: what is measured."""

    device: str = setting("cpu", "torch device, such as cpu or cuda")
    rows: int = setting(512, "rows of logits")
    vocabulary: int = setting(32064, "columns of logits", "LLaVA-1.5-7B's vocabulary")
    dtype: str = setting("both", "dtype of the logits: float32, bfloat16 or both")
    threads: int = setting(1, "CPU threads; one more measurement compares 1 and 2")
    rounds: int = setting(7, "timed rounds, in which the peers take turns; on a GPU at least 100")
    peers: str = setting("all", "all, or names with commas: " + ", ".join(PEER_NAMES))


@dataclass(frozen=True)
class BenchStepSettings:
    """bench --what step: what is measured."""

    shape: str = setting(
        "small",
        "small: a LLaVA of 78 million parameters at 336 pixels; tiny: for a look in seconds",
    )
    tasks: str = setting("default", "default, all, or names with commas: " + ", ".join(STEP_TASKS))
    threads: int = setting(1, "CPU threads")
    rounds: int = setting(3, "timed rounds, in which the two ways take turns")


@dataclass(frozen=True)
class BenchLikelihoodSettings:
    """bench --what likelihood: what is measured."""

    records: int = setting(
        8, "records of each task; of the model with 576 image tokens a quarter of them"
    )
    threads: int = setting(1, "CPU threads")
    rounds: int = setting(3, "timed rounds, in which the ways take turns")


@dataclass(frozen=True)
class BenchHeadSettings:
    """bench --what head: what is measured."""

    rows: int = setting(4096, "rows of logits")
    vocabulary: int = setting(32064, "columns of logits", "LLaVA-1.5-7B's vocabulary")
    dtype: str = setting("float32", "dtype of the logits: float32, bfloat16 or both")
    threads: int = setting(1, "CPU threads")
    rounds: int = setting(3, "timed rounds, in which the ways take turns")
    width: int = setting(512, "--what head: numbers in a hidden state")
