"""The questions that golden vectors ask: inputs of several shapes, and every method, meaning and option on them.

Every logit and hidden state is a bfloat16 number, so in whatever dtype the question is asked it is the same question. They come
from data/draws.py, keyed by shape, batch and name: the same on every machine.
"""

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from clear_ref.data.draws import choice, uniform_vector
from clear_ref.methods import METHODS, make_options, needs

from .arithmetic import ANSWER, IMAGE, PADDING, PROMPT
from .exact import add
from .token_columns import IGNORE, to_bf16

FLAGS = {
    "odd_vocabulary": "V is odd or prime: no vector width divides it.",
    "single_sequence": "One sequence: a mean over sequences, a sum and a first element are the same number.",
    "uneven_lengths": "Answers of several lengths: a token mean, a sequence mean and a mean of means differ.",
    "right_padding": "Padding after the answer. Its logits are ordinary numbers: nothing but the mask tells it from text.",
    "left_padding": "Padding before the prompt; otherwise the arrays of the shape `plain`.",
    "no_padding": "No padding: attention_mask is 1 everywhere.",
    "image_rows": "Image placeholders before the prompt, of one id; they are real positions and never answers.",
    "ignored_sequence": "One sequence has no label at all: it adds nothing, and counts where sequences are counted.",
    "near_one_probability": "Answer tokens with probability within 1e-6 of 1.",
    "near_zero_probability": "Answer tokens with probability below 1e-6.",
    "nll_above_20": "Answer tokens whose nll is above 20.",
    "large_logits": "Logits around 10^4: exp overflows unless the largest is subtracted first.",
    "teacher_equals_student": "Student and teacher agree: every KL is 0, every log-ratio 0.",
    "teacher_near": "Log-ratios within (-1, 1) at every vocabulary entry.",
    "option": "An option differs from its default.",
    "large_vocabulary": "About a thousand vocabulary entries.",
    "long_sequences": "Tens of positions.",
    "many_sequences": "More than ten sequences.",
}
ALL_SHAPES = {}


@dataclass(frozen=True)
class Shape:
    """One set of inputs.

    sequences   (images, prompt, answer) tokens of each forget sequence; retain: those of each retain sequence
    push        added to the label's student logit at the answer rows, in turn
    teacher     apart: drawn by itself | near: student + at most 0.1 | equal
    ignored     the sequence of every batch that has no labels, or None
    like        the shape whose draws it takes
    """

    name: str
    flags: tuple[str, ...]
    vocabulary: int = 5
    sequences: tuple = ((2, 2, 3), (0, 2, 1), (2, 1, 2))
    retain: tuple = ((2, 1, 1), (0, 3, 3), (1, 1, 2), (0, 1, 1))
    left: bool = False
    scale: float = 3.0
    push: tuple = (0.0,)
    teacher: str = "apart"
    ignored: int | None = None
    like: str = ""
    width: int = 3

    def __post_init__(self):
        ALL_SHAPES[self.name] = self


SMALL = {"sequences": ((1, 1, 2), (0, 2, 1)), "retain": ((0, 1, 1), (1, 1, 2))}
COMPACT = [
    shape.name
    for shape in (
        Shape("plain", ("odd_vocabulary", "uneven_lengths", "right_padding", "image_rows")),
        Shape(
            "left",
            ("odd_vocabulary", "uneven_lengths", "left_padding", "image_rows"),
            left=True,
            like="plain",
        ),
        Shape(
            "single",
            ("odd_vocabulary", "single_sequence", "no_padding", "image_rows"),
            7,
            ((1, 1, 2),),
            ((0, 2, 2),),
        ),
        Shape("ignored", ("odd_vocabulary", "ignored_sequence", "right_padding"), 3, ignored=1),
        Shape(
            "certain",
            ("near_one_probability", "near_zero_probability"),
            push=(18.0, -18.0, 0.0),
            **SMALL,
        ),
        Shape("unlikely", ("nll_above_20",), push=(-24.0, -40.0), **SMALL),
        Shape("large", ("large_logits",), scale=10000.0, **SMALL),
        Shape("equal", ("teacher_equals_student", "uneven_lengths"), teacher="equal", **SMALL),
        Shape("near", ("teacher_near", "uneven_lengths"), teacher="near", **SMALL),
    )
]
FULL = [
    *COMPACT,
    *(
        shape.name
        for shape in (
            Shape(
                "wide",
                ("odd_vocabulary", "large_vocabulary", "uneven_lengths", "image_rows"),
                1021,
                ((1, 2, 3), (0, 2, 2)),
                ((0, 1, 3), (1, 2, 1)),
                width=33,
            ),
            Shape(
                "long",
                ("odd_vocabulary", "long_sequences", "left_padding", "image_rows"),
                11,
                ((16, 5, 12), (0, 9, 20), (9, 2, 1)),
                ((4, 4, 30), (0, 3, 7)),
                left=True,
                width=8,
            ),
            Shape(
                "many",
                ("odd_vocabulary", "many_sequences", "uneven_lengths", "right_padding"),
                13,
                tuple((i % 3, 1 + i % 4, 1 + 7 * i % 5) for i in range(12)),
                tuple((i % 2, 2, 1 + i % 6) for i in range(11)),
            ),
            Shape("two", ("uneven_lengths", "right_padding"), 2),
            Shape(
                "hundred", ("odd_vocabulary", "near_zero_probability"), 101, push=(-30.0, 9.0, 0.0)
            ),
            Shape(
                "large_near", ("large_logits", "teacher_near"), 17, scale=10000.0, teacher="near"
            ),
        )
    ),
]
EVERYWHERE = {"sku": {"n_random": 2}, ("llmu", "original"): {"n_random": 2}}
MORE = {
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
    ("scrub", "paper"): [{"alpha": 0.5, "gamma": 2.0}],
    ("scrub", "released"): [{"beta": 0.5}],
    ("scrub", "original"): [{"alpha": 0.001, "gamma": 0.99, "temperature": 4.0, "msteps": 2}],
    ("llmu", "paper"): [{"kl": "teacher_student"}],
    ("llmu", "original"): [{}, {"w_forget": 2.0, "w_random": 0.5, "w_retain": 3.0, "n_random": 1}],
    ("rmu", "paper"): [{"c": 2.0, "alpha": 3.0, "layer": 1, "seed": 5}],
    ("rmu", "original"): [{"c": 2.0, "alpha": 3.0, "layer": 1, "seed": 5}],
    ("rmu", "released"): [{"c": 2.0, "beta": 3.0, "layer": 1, "seed": 5, "n_vectors": 2}],
    ("rmu", "released@2024-12-10"): [{"c": 2.0, "beta": 3.0, "layer": 1, "seed": 5}],
    ("sku", "paper"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 1}],
    ("sku", "released"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 2}],
    ("sku", "original"): [{}, {"w_forget": 1.0, "w_random": 3.0, "w_retain": 2.0, "n_random": 2}],
}


@dataclass(frozen=True)
class Case:
    """One question: a method in one meaning, options given beside the defaults, a shape."""

    method: str
    semantics: str
    given: tuple
    shape: str

    @property
    def id(self) -> str:
        """method/semantics/shape, and the options given."""
        options = ",".join(f"{name}={value}" for name, value in self.given)
        return "/".join(filter(None, (self.method, self.semantics, self.shape, options)))

    @property
    def options(self) -> dict:
        """Every option of the variant."""
        return asdict(make_options(self.method, dict(self.given), self.semantics))

    @property
    def flags(self) -> list[str]:
        """What is special about the question: keys of FLAGS."""
        usual = EVERYWHERE.get(self.method, EVERYWHERE.get((self.method, self.semantics), {}))
        return [*ALL_SHAPES[self.shape].flags, *(["option"] if dict(self.given) != usual else [])]

    @property
    def batches(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of each batch that the meaning reads."""
        options = make_options(self.method, dict(self.given), self.semantics)
        found = {}
        for name, need in needs(self.method, self.semantics, options).items():
            tensor = "hidden" if need.hidden else "logits"
            wanted = [
                "input_ids",
                "labels",
                "attention_mask",
                "kinds",
                tensor,
                *([f"teacher_{tensor}"] if need.teacher else []),
            ]
            found[name] = {key: inputs(self.shape)[name][key] for key in wanted}
        if self.method == "rmu":
            forget = found["forget"]["hidden"]
            found["forget"]["control"] = control(
                self.semantics, options, forget.shape[0], forget.shape[2]
            )
        return found


def cases(full=False) -> list[Case]:
    """Every question: each meaning with its usual options on every shape, with other options on one."""
    found = []
    for method, module in METHODS.items():
        for semantics in module.VARIANTS:
            usual = EVERYWHERE.get(method, EVERYWHERE.get((method, semantics), {}))
            found += [
                Case(method, semantics, tuple(usual.items()), shape)
                for shape in (FULL if full else COMPACT)
            ]
            shape = (
                "near" if (method, semantics) == ("npo", "released@2024-12-10") else "plain"
            )  # NaN on the others
            found += [
                Case(method, semantics, tuple(given.items()), shape)
                for given in MORE.get((method, semantics), [])
            ]
    return found


def control(semantics, options, n_sequences, width) -> np.ndarray:
    """float64 [n, width], RMU's control vectors, of norm 1 all together: one, or where the meaning is `released` several."""
    n = (options.n_vectors or n_sequences) if semantics == "released" else 1
    purpose = "rmu control vector/0/0" if "@" in semantics else "rmu control vector"
    v = uniform_vector(options.seed, purpose, n * width).reshape(n, width)
    return v / np.sqrt(add(v * v))


@cache
def inputs(name) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of every batch of a shape. forget, idk and random1.. ask the same questions, with answers of other lengths."""
    shape = ALL_SHAPES[name]
    found = {}
    for i, batch in enumerate(("forget", "idk", *(f"random{k}" for k in range(1, 6)))):
        answers = [answer for _, _, answer in shape.sequences]
        turned = answers[i % len(answers) :] + answers[: i % len(answers)]
        found[batch] = _batch(
            shape,
            batch,
            [(*lengths[:2], answer) for lengths, answer in zip(shape.sequences, turned)],
        )
    return {**found, "retain": _batch(shape, "retain", shape.retain)}


def _batch(shape, batch, sequences):
    key, n_positions = shape.like or shape.name, max(map(sum, sequences))
    grid = (len(sequences), n_positions)
    ids, kinds = np.zeros(grid, np.int64), np.full(grid, PADDING, np.int64)
    for b, (images, prompt, answer) in enumerate(sequences):
        first = n_positions - images - prompt - answer if shape.left else 0
        kinds[b, first : first + images + prompt + answer] = (
            [IMAGE] * images + [PROMPT] * prompt + [ANSWER] * answer
        )
        for t, kind in enumerate(kinds[b, first : first + images + prompt + answer]):
            drawn = choice(0, f"{key}/{batch}/ids", b, t, shape.vocabulary - 1)
            ids[b, first + t] = shape.vocabulary - 1 if kind == IMAGE else drawn
    labels = np.where(kinds == ANSWER, ids, IGNORE)
    if shape.ignored is not None:
        labels[shape.ignored] = IGNORE
    found = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": (kinds != PADDING).astype(np.int64),
        "kinds": kinds,
    }
    for tensor, width, scale in (
        ("logits", shape.vocabulary, shape.scale),
        ("hidden", shape.width, 2.0),
    ):
        student, other = (
            _values(f"{key}/{batch}/{whose}{tensor}", (*grid, width), kinds, shape.left)
            for whose in ("", "teacher_")
        )
        student = scale * student
        if tensor == "logits":
            for n, (b, t) in enumerate(zip(*np.nonzero(labels[:, 1:] != IGNORE))):
                student[b, t, labels[b, t + 1]] += shape.push[n % len(shape.push)]
        found[tensor] = to_bf16(student)
        near = found[tensor] + 0.1 * (1 if tensor == "hidden" else scale / 3.0) * other
        found[f"teacher_{tensor}"] = to_bf16(
            {"apart": scale * other, "near": near, "equal": student}[shape.teacher]
        )
    return found


def _values(key, shape, kinds, left):
    """Uniform in [-1, 1); a sequence's draws begin at its first real position, so that padding on the left moves nothing."""
    drawn = 2 * uniform_vector(0, key, int(np.prod(shape))).reshape(shape) - 1
    if left:
        drawn = np.stack(
            [np.roll(one, int((kind == PADDING).sum()), 0) for one, kind in zip(drawn, kinds)]
        )
    return drawn
