"""The shapes of the golden vectors: numbers of sequences and tokens, padding, size of logits."""

from dataclasses import dataclass

# These texts are part of the stored vectors (inputs.json): changing one changes the files.
FLAGS = {
    "odd_vocabulary": "V is odd or prime: no vector width divides it.",
    "single_sequence": (
        "One sequence: a mean over sequences, a sum and a first element are the same number."
    ),
    "uneven_lengths": (
        "Answers of several lengths: a token mean, a sequence mean and a mean of means differ."
    ),
    "right_padding": (
        "Padding after the answer. Its logits are ordinary numbers: nothing but the mask tells it "
        "from text."
    ),
    "left_padding": "Padding before the prompt; otherwise the arrays of the shape `plain`.",
    "no_padding": "No padding: attention_mask is 1 everywhere.",
    "image_rows": (
        "Image placeholders before the prompt, of one id; they are real positions and never "
        "answers."
    ),
    "ignored_sequence": (
        "One sequence has no label at all: it adds nothing, and counts where sequences are counted."
    ),
    "near_one_probability": "Answer tokens with probability within 1e-6 of 1.",
    "near_zero_probability": "Answer tokens with probability below 1e-6.",
    "nll_above_20": "Answer tokens whose nll is above 20.",
    "large_logits": ("Logits around 10^4: exp overflows unless the largest is subtracted first."),
    "teacher_equals_student": ("Student and teacher agree: every KL is 0, every log-ratio 0."),
    "teacher_near": "Log-ratios within (-1, 1) at every vocabulary entry.",
    "option": "An option differs from its default.",
    "large_vocabulary": "About a thousand vocabulary entries.",
    "long_sequences": "Tens of positions.",
    "many_sequences": "More than ten sequences.",
}

# Numbers of image, prompt and answer tokens of one sequence.
Lengths = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """One set of inputs.

    flags       keys of FLAGS
    sequences   lengths of each forget sequence; retain: of each retain sequence
    left        padding before the prompt instead of after the answer
    scale       logits are drawn from [-scale, scale)
    push        added to the label's student logit at the answer rows, one number after another
    teacher     apart: drawn independently | near: student + at most 0.1 | equal: the student
    ignored     index of the sequence of every batch that has no labels, or None
    like        the shape that has the same random draws, or ""
    width       D, the number of hidden states at a position
    """

    name: str
    flags: tuple[str, ...]
    vocabulary: int = 5
    sequences: tuple[Lengths, ...] = ((2, 2, 3), (0, 2, 1), (2, 1, 2))
    retain: tuple[Lengths, ...] = ((2, 1, 1), (0, 3, 3), (1, 1, 2), (0, 1, 1))
    left: bool = False
    scale: float = 3.0
    push: tuple[float, ...] = (0.0,)
    teacher: str = "apart"
    ignored: int | None = None
    like: str = ""
    width: int = 3


def small_shape(
    name: str,
    flags: tuple[str, ...],
    scale: float = 3.0,
    push: tuple[float, ...] = (0.0,),
    teacher: str = "apart",
) -> Shape:
    """A Shape of two forget sequences and two retain sequences."""
    return Shape(
        name,
        flags,
        sequences=((1, 1, 2), (0, 2, 1)),
        retain=((0, 1, 1), (1, 1, 2)),
        scale=scale,
        push=push,
        teacher=teacher,
    )


COMPACT_SHAPES = (
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
        vocabulary=7,
        sequences=((1, 1, 2),),
        retain=((0, 2, 2),),
    ),
    Shape(
        "ignored",
        ("odd_vocabulary", "ignored_sequence", "right_padding"),
        vocabulary=3,
        ignored=1,
    ),
    small_shape(
        "certain", ("near_one_probability", "near_zero_probability"), push=(18.0, -18.0, 0.0)
    ),
    small_shape("unlikely", ("nll_above_20",), push=(-24.0, -40.0)),
    small_shape("large", ("large_logits",), scale=10000.0),
    small_shape("equal", ("teacher_equals_student", "uneven_lengths"), teacher="equal"),
    small_shape("near", ("teacher_near", "uneven_lengths"), teacher="near"),
)
LARGER_SHAPES = (
    Shape(
        "wide",
        ("odd_vocabulary", "large_vocabulary", "uneven_lengths", "image_rows"),
        vocabulary=1021,
        sequences=((1, 2, 3), (0, 2, 2)),
        retain=((0, 1, 3), (1, 2, 1)),
        width=33,
    ),
    Shape(
        "long",
        ("odd_vocabulary", "long_sequences", "left_padding", "image_rows"),
        vocabulary=11,
        sequences=((16, 5, 12), (0, 9, 20), (9, 2, 1)),
        retain=((4, 4, 30), (0, 3, 7)),
        left=True,
        width=8,
    ),
    Shape(
        "many",
        ("odd_vocabulary", "many_sequences", "uneven_lengths", "right_padding"),
        vocabulary=13,
        sequences=tuple((i % 3, 1 + i % 4, 1 + 7 * i % 5) for i in range(12)),
        retain=tuple((i % 2, 2, 1 + i % 6) for i in range(11)),
    ),
    Shape("two", ("uneven_lengths", "right_padding"), vocabulary=2),
    Shape(
        "hundred",
        ("odd_vocabulary", "near_zero_probability"),
        vocabulary=101,
        push=(-30.0, 9.0, 0.0),
    ),
    Shape(
        "large_near",
        ("large_logits", "teacher_near"),
        vocabulary=17,
        scale=10000.0,
        teacher="near",
    ),
)
ALL_SHAPES = {shape.name: shape for shape in (*COMPACT_SHAPES, *LARGER_SHAPES)}
COMPACT = [shape.name for shape in COMPACT_SHAPES]
FULL = list(ALL_SHAPES)
