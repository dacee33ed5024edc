"""bench: time, memory and error beside other implementations."""

from argparse import Namespace
from dataclasses import fields

from clear_ref.bench import (
    frozen_head,
    likelihood,
    token_terms,
    token_terms_text,
    training_step,
    training_step_text,
)
from clear_ref.bench.settings import (
    BenchHeadSettings,
    BenchLikelihoodSettings,
    BenchSettings,
    BenchStepSettings,
)
from clear_ref.common.errors import UserError

from .given import settings_from
from .output import Output

SETTINGS = {
    "kernel": BenchSettings,
    "head": BenchHeadSettings,
    "step": BenchStepSettings,
    "likelihood": BenchLikelihoodSettings,
}


def command(arguments: Namespace) -> Output:
    """What `bench` prints; raises UserError for a setting of another kind of benchmark."""
    kind = SETTINGS[arguments.what]
    own = [f.name for f in fields(kind)]
    for settings in SETTINGS.values():
        for f in fields(settings):
            if f.name not in own and f.name in vars(arguments):
                raise UserError(
                    f"--{f.name} is no setting of bench --what {arguments.what}; it has "
                    + ", ".join(f"--{name}" for name in own)
                )
    if arguments.what == "kernel":
        found = token_terms.run(settings_from(arguments, BenchSettings))
        return Output(found, token_terms_text.text)
    if arguments.what == "head":
        found = frozen_head.run(settings_from(arguments, BenchHeadSettings))
        return Output(found, frozen_head.text)
    if arguments.what == "step":
        found = training_step.run(settings_from(arguments, BenchStepSettings))
        return Output(found, training_step_text.text)
    found = likelihood.run(settings_from(arguments, BenchLikelihoodSettings))
    return Output(found, likelihood.text)
