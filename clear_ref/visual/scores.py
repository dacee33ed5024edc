"""Accuracies of a network that names faces by comparing them with reference pictures.

The reference of a name is the mean of the embeddings of five of its pictures. Every other picture
is a question: it is given the name whose reference has the largest cosine to it, among all names,
those of people outside of the split too. Chance is 1 / number of names.

paper     the first five rows of each name are its references; arithmetic in float64
released  five places for each name, laid over the rows in the order of the classes: right only
          where rows are grouped by name, otherwise a name has more or fewer references, or none;
          arithmetic in float32
source    released code, cv/score.py:106-130 at bb14c96
"""

from collections.abc import Mapping, Sequence

import numpy as np

from clear_ref.common.errors import UserError

from .names import N_REFERENCES

DEFINITIONS = ("paper", "released")
GROUPS = ("forget", "holdout", "retain")  # in the order of the table
NOBODY = -1  # no class


def reference_mask(labels: np.ndarray, definition: str) -> np.ndarray:
    """[n] True for the rows that are references.

    labels  [n] the class of each row
    """
    check_definition(definition)
    mask = np.zeros(len(labels), dtype=bool)
    start = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if definition == "released":
            mask[start : start + min(len(rows), N_REFERENCES)] = True
            start += len(rows)
        else:
            mask[rows[:N_REFERENCES]] = True
    return mask


def gallery(
    embeddings: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(classes [k], their references [k, D] of length 1), of the classes with a reference.

    The mean is of the embeddings as they are: a long one counts more than a short one.
    """
    classes, means = _means(embeddings, labels, mask)
    return classes, directions_of(means)


def directions_of(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; NaN for a row of zeros, which has no direction. In float32 a row whose
    length passes 3.4e38 when it is squared becomes zeros, as in the released code (`without_length`
    counts them).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def without_length(embeddings: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """(embeddings, references) whose length is no finite number in float32, as `released` computes
    it: its cosines to them are 0, or NaN.
    """
    embeddings, mask = _prepared(embeddings, labels, "released")
    _, means = _means(embeddings, labels, mask)
    with np.errstate(invalid="ignore", over="ignore"):
        counts = [
            int((~np.isfinite(np.linalg.norm(vectors, axis=1))).sum())
            for vectors in (embeddings, means)
        ]
    return counts[0], counts[1]


def accuracies(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    definition: str,
) -> dict[str, float]:
    """{group: percent of its questions that are given the right name}; NaN without a question.

    A question whose embedding is all zeros, as of a network that died, is given no name; a
    reference of zeros is nobody's.

    embeddings  [n, D] float32
    labels      [n] the class of each row
    groups      {name of the group: its classes}
    """
    embeddings, mask = _prepared(embeddings, labels, definition)
    classes, references = gallery(embeddings, labels, mask)
    cosines = directions_of(embeddings) @ references.T
    cosines[np.isnan(cosines)] = -np.inf
    named = np.where(cosines.max(axis=1) == -np.inf, NOBODY, classes[cosines.argmax(axis=1)])
    found = {}
    for group, members in groups.items():
        questions = ~mask & np.isin(labels, members)
        right = named[questions] == labels[questions]
        found[group] = 100.0 * float(right.mean()) if right.size else float("nan")
    return found


def own_cosines(embeddings: np.ndarray, labels: np.ndarray, definition: str) -> np.ndarray:
    """[n] the cosine of each row's embedding to the reference of its own name.

    NaN for an embedding or a reference of zeros, and for a row whose name has no reference
    (`released` on rows that are not grouped by name;
    the released script drops such rows, and then mistakes one row for another).
    """
    embeddings, mask = _prepared(embeddings, labels, definition)
    classes, references = gallery(embeddings, labels, mask)
    directions = directions_of(embeddings)
    cosines = np.full(len(labels), np.nan, dtype=embeddings.dtype)
    for label, reference in zip(classes, references, strict=True):
        own = labels == label
        cosines[own] = (directions[own] * reference).sum(axis=1)
    return cosines


def check_definition(definition: str) -> None:
    """UserError for a name that is none of DEFINITIONS."""
    if definition not in DEFINITIONS:
        raise UserError(
            f"unknown definition {definition!r}; expected one of {', '.join(DEFINITIONS)}"
        )


def _means(
    embeddings: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(classes [k] with a reference, the means [k, D] of their references)."""
    classes = np.unique(labels[mask])
    with np.errstate(invalid="ignore", over="ignore"):
        means = [embeddings[mask & (labels == label)].mean(axis=0) for label in classes]
    return classes, np.stack(means)


def _prepared(
    embeddings: np.ndarray, labels: np.ndarray, definition: str
) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings in the definition's precision, its reference mask), with shapes checked."""
    if embeddings.ndim != 2 or embeddings.shape[0] != len(labels):
        raise UserError(
            f"embeddings have shape {list(embeddings.shape)}; expected [{len(labels)}, D], a row "
            "for each label"
        )
    dtype = np.float32 if definition == "released" else np.float64
    return embeddings.astype(dtype), reference_mask(labels, definition)
