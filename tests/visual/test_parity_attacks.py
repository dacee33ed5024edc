"""Attacks, logistic regression and splits equal to those of scikit-learn, scipy and pandas, called
as the released scripts call them.

Where one of the packages is not installed (the parity extra), this file is skipped.
"""

import warnings

import numpy as np
import pytest

from clear_ref.visual.attacks import guessed, logits_of, u_lira, u_mia
from clear_ref.visual.logistic import logistic_regression
from clear_ref.visual.names import classes_of
from clear_ref.visual.scores import own_cosines, reference_mask
from clear_ref.visual.splits import People, make_splits

linear_model = pytest.importorskip("sklearn.linear_model", reason="the parity extra")
stats = pytest.importorskip("scipy.stats", reason="the parity extra")
pd = pytest.importorskip("pandas", reason="the parity extra")

N_SPLITS = 16
FORGET, HOLDOUT = np.arange(12), np.arange(12, 24)


def cosines(seed, member_gain):
    """[24 pictures, 16 models] cosines; those of models that had the person are higher by
    member_gain. Some are 1, 0 and equal to each other.
    """
    random = np.random.RandomState(seed)
    made = random.uniform(0.2, 0.9, size=(24, N_SPLITS))
    made[:12, :8] += member_gain
    made[12:, 8:] += member_gain
    made[3] = np.where(np.arange(N_SPLITS) < 8, 1.0, 0.0)
    made[15] = 0.5
    made[20, ::3] = -0.2
    return made.astype(np.float32)


def released_u_lira(logits):
    """Share of right guesses, by scipy's Gaussian, one picture at a time."""
    right = []
    lists = ((FORGET, 0, 8), (HOLDOUT, 8, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows, had, had_not in lists:
            for row in logits[rows]:
                shadows = [row[start + 4 : start + 8] for start in (had, had_not)]
                centres = [np.median(each) for each in shadows]
                pairs = zip(shadows, centres, strict=True)
                scales = [np.median(np.abs(each - centre)) / 0.6745 for each, centre in pairs]
                for start, status in ((had, 1), (had_not, 0)):
                    inside, outside = (
                        stats.norm.pdf(row[start : start + 4], centre, scale + 1e-45)
                        for centre, scale in zip(centres, scales, strict=True)
                    )
                    right += list((inside / (1e-45 + inside + outside) > 0.5) == status)
    return np.mean(right)


def released_u_mia(logits):
    """Share of right guesses, by scikit-learn."""
    forget, holdout = logits[FORGET], logits[HOLDOUT]
    inside = [forget[:, 4:8].ravel(), holdout[:, 12:].ravel()]
    outside = [forget[:, 12:].ravel(), holdout[:, 4:8].ravel()]
    feature = np.concatenate(inside + outside).reshape(-1, 1)
    model = linear_model.LogisticRegression().fit(feature, np.repeat([1, 0], len(feature) // 2))
    targets = [forget[:, :4], holdout[:, 8:12], forget[:, 8:12], holdout[:, :4]]
    said = model.predict(np.concatenate([each.ravel() for each in targets]).reshape(-1, 1))
    return np.mean(said == np.repeat([1, 0], len(said) // 2))


@pytest.mark.parametrize("member_gain", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_released_attacks_are_the_scripts(seed, member_gain):
    logits = logits_of(cosines(seed, member_gain), "released")
    lists = guessed(FORGET, HOLDOUT, N_SPLITS)
    assert u_lira(logits, lists, "released").accuracy == released_u_lira(logits)
    assert u_mia(logits, lists).accuracy == released_u_mia(logits)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_logistic_regression_is_scikit_learns_to_1e_6(scale, shift):
    random = np.random.RandomState(3)
    is_member = np.arange(300) % 3 > 0
    feature = scale * (random.randn(300) + shift * is_member)
    model = linear_model.LogisticRegression(tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(feature.reshape(-1, 1), is_member)
    weight, bias = logistic_regression(feature, is_member)
    assert weight == pytest.approx(model.coef_[0, 0], rel=1e-6, abs=1e-9)
    assert bias == pytest.approx(model.intercept_[0], rel=1e-6, abs=1e-9)


def test_the_splits_are_those_of_pandas_sample():
    names = [f"p{number:02}" for number in range(40) for _ in range(6)]
    forget, holdout = {"p03", "p09"}, {"p20", "p01"}
    frame = pd.DataFrame(names, columns=["name"])
    np.random.seed(42)
    people = People(*(tuple(sorted(each)) for each in (forget, holdout, forget, holdout)))
    for split in make_splits(classes_of(names), people, 6):
        rest = frame[~frame["name"].isin(forget | holdout)].drop_duplicates()["name"].sample(18)
        members = set(rest) | (forget if split.number < 3 else holdout)
        assert [f"p{label:02}" for label in split.members] == sorted(members)


def test_references_and_cosines_are_those_of_the_script_on_rows_in_any_order():
    random = np.random.RandomState(1)
    labels = random.randint(0, 6, size=60)
    embeddings = random.randn(60, 8).astype(np.float32)
    frame = pd.DataFrame({"label": labels, "vectors": list(embeddings)})
    counts = frame["label"].value_counts().sort_index()
    laid = counts.apply(lambda n: [1] * min(n, 5) + [0] * (n - min(n, 5)))
    frame["reference"] = laid.explode().reset_index(drop=True)
    mask = frame["reference"].eq(1).to_numpy()
    assert (mask == reference_mask(labels, "released")).all()
    means = frame[mask].groupby("label")["vectors"].apply(lambda each: np.mean(list(each), axis=0))
    expected = [
        vector @ means[label] / np.linalg.norm(vector) / np.linalg.norm(means[label])
        for label, vector in zip(labels, embeddings, strict=True)
    ]
    np.testing.assert_allclose(
        own_cosines(embeddings, labels, "released"), expected, rtol=1e-5, atol=1e-6
    )
