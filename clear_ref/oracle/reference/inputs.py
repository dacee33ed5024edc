"""The arrays of a shape's batches, drawn by data/draws.py: the same on every machine.

Every logit and hidden state is a bfloat16 number, so the inputs are exact in float64, float32 and
bfloat16. The random key of an array is made of shape, batch and name.
"""

from functools import cache

import numpy as np

from clear_ref.data.draws import choice, uniform_vector

from .exact import add
from .formulas import Options, random_batches
from .rows import ANSWER, IGNORE, IMAGE, PADDING, PROMPT, Batch
from .shapes import ALL_SHAPES, Lengths, Shape
from .token_columns import to_bf16

HIDDEN_SCALE = 2.0


@cache
def inputs(shape_name: str) -> dict[str, Batch]:
    """The arrays of every batch of a shape.

    forget, idk and random1 to random5 have the same prompt lengths, with answers of other lengths.
    """
    shape = ALL_SHAPES[shape_name]
    answers = [answer for _, _, answer in shape.sequences]
    batches = {}
    for i, name in enumerate(("forget", "idk", *random_batches(5))):
        first = i % len(answers)
        rotated = answers[first:] + answers[:first]
        pairs = zip(shape.sequences, rotated, strict=True)
        sequences = tuple((images, prompt, answer) for (images, prompt, _), answer in pairs)
        batches[name] = _batch(shape, name, sequences)
    batches["retain"] = _batch(shape, "retain", shape.retain)
    return batches


def control_vectors(
    semantics: str, options: Options, n_sequences: int, width: int, first: int = 0
) -> np.ndarray:
    """float64 [n, width], RMU's control vectors; the norm of all n together is 1.

    n is 1; for `released` it is the option n_vectors or, without one, the number of sequences.
    first  index of the batch's first record, on which the older released code's vectors depend
    """
    n = (options["n_vectors"] or n_sequences) if semantics == "released" else 1
    purpose = f"rmu control vector/0/{first}" if "@" in semantics else "rmu control vector"
    v = uniform_vector(options["seed"], purpose, n * width).reshape(n, width)
    return v / np.sqrt(add(v * v))


def _batch(shape: Shape, name: str, sequences: tuple[Lengths, ...]) -> Batch:
    key = f"{shape.like or shape.name}/{name}"
    ids, kinds = _ids_and_kinds(shape, key, sequences)
    labels = np.where(kinds == ANSWER, ids, IGNORE)
    if shape.ignored is not None:
        labels[shape.ignored] = IGNORE
    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": (kinds != PADDING).astype(np.int64),
        "kinds": kinds,
    }

    def uniform(tensor: str, width: int) -> np.ndarray:
        return _uniform(f"{key}/{tensor}", (*kinds.shape, width), kinds, shape.left)

    student = shape.scale * uniform("logits", shape.vocabulary)
    _push_labels(student, labels, shape.push)
    noise = uniform("teacher_logits", shape.vocabulary)
    batch["logits"] = to_bf16(student)
    batch["teacher_logits"] = _teacher(shape.teacher, student, noise, shape.scale, shape.scale / 3)

    student = HIDDEN_SCALE * uniform("hidden", shape.width)
    noise = uniform("teacher_hidden", shape.width)
    batch["hidden"] = to_bf16(student)
    batch["teacher_hidden"] = _teacher(shape.teacher, student, noise, HIDDEN_SCALE, 1)
    return batch


def _ids_and_kinds(
    shape: Shape, key: str, sequences: tuple[Lengths, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [B, T] token ids and kinds; padding has id 0, image placeholders have id V - 1."""
    n_positions = max(sum(lengths) for lengths in sequences)
    grid = (len(sequences), n_positions)
    ids = np.zeros(grid, np.int64)
    kinds = np.full(grid, PADDING, np.int64)
    for b, (images, prompt, answer) in enumerate(sequences):
        first = n_positions - images - prompt - answer if shape.left else 0
        real = [IMAGE] * images + [PROMPT] * prompt + [ANSWER] * answer
        for t, kind in enumerate(real):
            kinds[b, first + t] = kind
            if kind == IMAGE:
                ids[b, first + t] = shape.vocabulary - 1
            else:
                ids[b, first + t] = choice(0, f"{key}/ids", b, t, shape.vocabulary - 1)
    return ids, kinds


def _push_labels(logits: np.ndarray, labels: np.ndarray, push: tuple[float, ...]) -> None:
    """Add the numbers in `push`, one after another, to the labels' logits at the answer rows."""
    answer_rows = zip(*np.nonzero(labels[:, 1:] != IGNORE), strict=True)
    for n, (b, t) in enumerate(answer_rows):
        logits[b, t, labels[b, t + 1]] += push[n % len(push)]


def _teacher(
    kind: str, student: np.ndarray, noise: np.ndarray, scale: float, near_scale: float
) -> np.ndarray:
    """The teacher's tensor, as Shape.teacher describes it; bfloat16 numbers."""
    if kind == "equal":
        return to_bf16(student)
    if kind == "near":
        return to_bf16(to_bf16(student) + 0.1 * near_scale * noise)
    return to_bf16(scale * noise)


def _uniform(key: str, shape: tuple[int, ...], kinds: np.ndarray, left: bool) -> np.ndarray:
    """Uniform in [-1, 1), float64.

    The draws of a sequence begin at its first real position, so that a sequence has the same
    numbers with padding on the left and on the right.
    """
    drawn = 2 * uniform_vector(0, key, int(np.prod(shape))).reshape(shape) - 1
    if left:
        shifted = []
        for sequence, kind in zip(drawn, kinds, strict=True):
            shifted.append(np.roll(sequence, int((kind == PADDING).sum()), 0))
        drawn = np.stack(shifted)
    return drawn
