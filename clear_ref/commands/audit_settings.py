"""Settings and help of the command `metrics-audit`."""

from dataclasses import dataclass

from clear_ref.common.settings import setting

from .settings import Evaluate, model_setting, recipe_setting, seed_setting

HELP = """\
metrics-audit: which definitions of metrics can tell a model that knows the people to forget from a
model that never saw them?

It trains N models with these people and N without, from one start, with seeds of their own, and one
gold without them, to which Forget Quality and the reference attack compare; gold is in no group.
Each is measured as trained, after relearning (a few steps on a few forget records) and with rounded
weights. Then for every definition of every set, and every membership score:

  AUC    probability that of a model with and one without the first has the value that the
         definition's direction expects of it: 1 always tells, 0.5 cannot tell, 0 tells the wrong
         way round. Retain and Real numbers should be near 0.5: the groups differ in nothing else
  95 %   its interval over other models (Newcombe 2006), p: exact, two-sided
  rank   rank correlation, over all models, with U-LIRA: a membership attack that has all the
         other models

With 100 definitions, five have p below 0.05 by chance. In --out stand metrics.json, audit.csv
(every number, every model's value), audit.md, and below models/ each model with its logs, which
`score` reads. --resume --out DIR continues after a stop or a kill; with a larger --models it adds
models, with a smaller one the table is made of the first ones.

  python -m clear_ref.run metrics-audit --models 5 --out runs/audit
  python -m clear_ref.run metrics-audit --model clear_ref/mini/gold --epochs 3 --out runs/audit
  python -m clear_ref.run metrics-audit --resume --out runs/audit --models 8
"""
# Settings of Evaluate that have no meaning here: what they choose is fixed.
WITHOUT = frozenset(
    {"metrics", "shard", "strict", "adapter", "gold", "robustness", "relearn_at", "leakage"}
)


@dataclass(frozen=True)
class MetricsAudit(Evaluate):
    """metrics-audit."""

    model: str = model_setting(
        meaning="model directory that every training begins with, or mini: the embedded world's "
        "model before it saw the twenty people"
    )
    out: str = setting("", "directory that the command writes; default: a new one in runs/")
    models: int = setting(5, "models with the people to forget, and as many without them")
    seed: int = seed_setting(
        "of gold; the models have the seeds after it. It also chooses the relearned records"
    )
    recipe: str = recipe_setting("recipe of the trainings, and of the adapters of relearning")
    relearn_steps: int = setting(10, "steps of relearning")
