"""Results of sweeps with numbers that are known in advance."""

from clear_ref.methods.table import METHODS


def scores(forget, retain, quality):
    return {"forget": forget, "retain": retain, "forget_quality": quality}


def models(forget, retain, quality):
    """Three parts of the records with numbers that differ by 0.01."""
    parts = ("choosing", "reporting", "all")
    return {
        part: scores(forget + k / 100, retain + k / 100, quality) for k, part in enumerate(parts)
    }


def point(number, method, forget, retain, chosen=False, meets=True, **recipe):
    return {
        "number": number,
        "method": method,
        "recipe": recipe,
        "options": {},
        "words": ", ".join(f"{k} {v}" for k, v in recipe.items()),
        "command": f"python -m clear_ref.run {method} --lr {recipe['lr']}",
        "failed": "",
        "chosen": chosen,
        "meets": meets,
        "seconds": 1.0,
        **models(forget, retain, 0.5),
    }


SUMMARY = {
    "semantics": "paper",
    "modality": "both",
    "recipe": "mini",
    "seeds": [0],
    "rule": "forget-at-retain-0.9",
    "split_seed": 0,
    "pair": ["forget", "retain"],
    "impl": "torch",
    "quality_records": {"choosing": 10, "reporting": 10},
    "models": {"base": models(0.6, 0.8, 0.2), "gold": models(0.1, 0.7, 1.0)},
    "points": [
        point(1, "npo", 0.5, 0.79, lr="1e-3"),
        point(2, "npo", 0.3, 0.75, chosen=True, lr="2e-3"),
        point(3, "kl", 0.2, 0.4, chosen=True, meets=False, lr="1e-3"),
        {**point(4, "kl", 0, 0, lr="<b>"), "failed": "the loss is nan & <i>"},
    ],
    "out": "runs/sweep",
}
RECORD = {
    "settings": {"lr": {"value": 1, "source": "command line"}},
    "versions": {"torch": "2"},
    "inputs": {"a<b": "00"},
}


def of_all_methods():
    """The result of a sweep of every method with three settings each."""
    points = []
    for k, method in enumerate(METHODS):
        for i in range(3):
            forget, retain = 0.55 - 0.04 * k - 0.02 * i, 0.79 - 0.03 * i - 0.004 * k
            number = 3 * k + i + 1
            points.append(point(number, method, forget, retain, i == 1, lr=f"{i + 1}e-3"))
    return {**SUMMARY, "points": points}
