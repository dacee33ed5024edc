"""The cases of the golden vectors: every loss, semantics and option, on inputs of some shapes."""

from dataclasses import asdict, dataclass

from clear_ref.methods import LOSSES, make_options, needs

from .formulas import Options
from .inputs import control_vectors, inputs
from .rows import Batches
from .shapes import ALL_SHAPES, COMPACT, FULL

# Options of further cases, each beside the defaults.
FURTHER_OPTIONS: dict[tuple[str, str], list[Options]] = {
    ("grad_diff", "paper"): [{"lambda_retain": 2.5}, {"forget": "entropy"}],
    ("grad_diff", "released"): [
        {"beta": 0.5},
        {"forget": "entropy"},
        {"forget": "kl"},
        {"retain": "kl"},
    ],
    ("grad_diff", "original"): [{"retain": "kl"}],
    ("dpo", "paper"): [
        {
            "beta": 0.7,
            "lambda_idk": 0.5,
            "lambda_dpo": 2.0,
            "retain_weight": 1.5,
            "reference": "base",
        }
    ],
    ("dpo", "original"): [{"beta": 0.7}],
    ("npo", "paper"): [{"beta": 0.1}],
    ("npo", "original"): [{"beta": 0.5, "retain": "ce"}, {"retain": "kl"}],
    ("npo", "released"): [{"beta": 0.5}],
    ("npo", "released@2024-12-10"): [{"beta": 3.0}],
    ("npo", "released@nlp"): [{"beta": 3.0}],
    ("scrub", "paper"): [{"alpha": 0.5, "gamma": 2.0}],
    ("scrub", "released"): [{"beta": 0.5}],
    ("scrub", "original"): [{"alpha": 0.001, "gamma": 0.99, "temperature": 4.0, "msteps": 2}],
    ("llmu", "paper"): [{"kl": "teacher_student"}],
    ("llmu", "original"): [{}, {"w_forget": 2.0, "w_random": 0.5, "w_retain": 3.0, "n_random": 1}],
    ("rmu", "paper"): [{"c": 2.0, "alpha": 3.0, "layer": 1, "seed": 5}],
    ("rmu", "original"): [{"c": 2.0, "alpha": 3.0, "layer": 1, "seed": 5}],
    ("rmu", "released"): [{"c": 2.0, "beta": 3.0, "layer": 1, "seed": 5, "n_vectors": 2}],
    ("rmu", "released@2024-12-10"): [{"c": 2.0, "beta": 3.0, "layer": 1, "seed": 5}],
    ("rmu", "released@nlp"): [{"c": 2.0, "beta": 3.0, "layer": 1, "seed": 5}],
    ("sku", "paper"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 1}],
    ("sku", "released"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 2}],
    ("sku", "original"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 2}],
    ("simnpo", "paper"): [{"beta": 0.5, "margin": 0.25, "lambda_retain": 2.0}],
    ("simnpo", "original"): [
        {"beta": 0.5, "delta": 0.25, "gamma": 1.0},
        {"alpha": 0.5, "retain": "kl"},
        {"beta": 0.5, "alpha": 0.0},
    ],
    ("undial", "paper"): [{"beta": 3.0}],
    ("undial", "original"): [
        {"beta": 3.0, "gamma": 0.5, "alpha": 2.0},
        {"alpha": 0.5, "retain": "kl"},
    ],
    ("wga", "paper"): [{"beta": 2.5}, {"retain": "kl"}],
    ("wga", "original"): [
        {"beta": 2.5, "gamma": 0.5},
        {"alpha": 0.5, "retain": "kl"},
        {"alpha": 0.0},
    ],
    ("satimp", "paper"): [{"beta1": 1.5, "beta2": 0.5, "lambda_retain": 2.0}],
    ("satimp", "original"): [
        {"beta1": 1.5, "beta2": 2.0, "gamma": 2.0},
        {"alpha": 0.5, "retain": "kl"},
        {"alpha": 0.0},
    ],
    ("ceu", "original"): [{"skip": 0}, {"skip": 2}],
}

# These losses are NaN where a log-ratio is below -1, so their teacher must be near the student.
NEAR = (("npo", "released@2024-12-10"), ("npo", "released@nlp"))


@dataclass(frozen=True)
class Case:
    """One case: a method, its semantics, the options given beside the defaults, and a shape."""

    method: str
    semantics: str
    given: tuple[tuple[str, str | int | float], ...]
    shape: str

    @property
    def id(self) -> str:
        """method/semantics/shape, and /option=value,... if options are given."""
        options = ",".join(f"{name}={value}" for name, value in self.given)
        return "/".join(filter(None, (self.method, self.semantics, self.shape, options)))

    @property
    def options(self) -> Options:
        """Every option of the variant."""
        return asdict(make_options(self.method, dict(self.given), self.semantics))

    @property
    def flags(self) -> list[str]:
        """What is special about the case: keys of FLAGS."""
        flags = list(ALL_SHAPES[self.shape].flags)
        if dict(self.given) != usual_options(self.method, self.semantics):
            flags.append("option")
        return flags

    @property
    def batches(self) -> Batches:
        """The arrays that the method reads of each batch."""
        options = make_options(self.method, dict(self.given), self.semantics)
        batches = {}
        for name, need in needs(self.method, self.semantics, options).items():
            tensor = "hidden" if need.hidden else "logits"
            wanted = ["input_ids", "labels", "attention_mask", "kinds", tensor]
            if need.teacher:
                wanted.append(f"teacher_{tensor}")
            batches[name] = {key: inputs(self.shape)[name][key] for key in wanted}
        if self.method == "rmu":
            n_sequences, _, width = batches["forget"]["hidden"].shape
            batches["forget"]["control"] = control_vectors(
                self.semantics, self.options, n_sequences, width
            )
        return batches


def usual_options(method: str, semantics: str) -> Options:
    """The options given on every shape: fewer random batches than by default, for small files."""
    if method == "sku" or (method, semantics) == ("llmu", "original"):
        return {"n_random": 2}
    return {}


def cases(full: bool = False) -> list[Case]:
    """Every case: all semantics with the usual options on every shape, further options on one.

    full  the shapes in FULL instead of those in COMPACT
    """
    found = []
    for method, module in LOSSES.items():
        for semantics in module.VARIANTS:
            usual = tuple(usual_options(method, semantics).items())
            for shape in FULL if full else COMPACT:
                found.append(Case(method, semantics, usual, shape))
            # This NPO is NaN on every other compact shape.
            is_nan = (method, semantics) in NEAR
            shape = "near" if is_nan else "plain"
            for given in FURTHER_OPTIONS.get((method, semantics), []):
                found.append(Case(method, semantics, tuple(given.items()), shape))
    return found
