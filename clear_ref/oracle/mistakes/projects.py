"""Which project computes what, and how a mistake, a meaning or a project is found by its name."""

from dataclasses import dataclass
from difflib import get_close_matches

from clear_ref.common.errors import UserError
from clear_ref.methods import SEMANTICS

from .known import MISTAKES, Mistake
from .peers import PEERS, Peer

Entry = Mistake | Peer
EVERY: tuple[Entry, ...] = (*MISTAKES, *PEERS)
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in EVERY}


@dataclass(frozen=True)
class Project:
    """What one project computes.

    version  commit or release in which it was read
    methods  {method: semantics of ours, or a name of ENTRIES} of its losses with our methods' names
    """

    version: str
    methods: dict[str, str]


# TOFU's trainer with NPO: of the repository NPO, and of Unlearn-Simple, which adds SimNPO.
OF_TOFU = {
    "grad_ascent": "original",
    "grad_diff": "original",
    "kl": "original",
    "idk": "original",
    "dpo": "dpo_two_over_beta",
    "npo": "original",
}
PROJECTS: dict[str, Project] = {
    "open-unlearning": Project(
        "d3d7cf9",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "dpo": "dpo_two_over_beta",
            "npo": "original",
            "rmu": "rmu_open_unlearning",
            "simnpo": "original",
            "undial": "original",
            "wga": "original",
            "satimp": "original",
            "ceu": "original",
        },
    ),
    "Open-MMUnlearning": Project(
        "fedc3c4",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "kl": "kl_answer_token_mean",
            "npo": "original",
            "rmu": "rmu_answer_positions",
        },
    ),
    "MLLMU-Bench": Project(
        "0e3098e",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "kl": "kl_plus_retain_nll",
            "npo": "npo_batch_mean",
        },
    ),
    "MMUnlearner": Project(
        "fa77c66",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "kl": "kl_plus_retain_nll",
            "npo": "npo_batch_mean",
        },
    ),
    "muse_bench": Project(
        "54719c5",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "kl": "kl_raw_logits",
            "npo": "npo_raw_logits",
        },
    ),
    "llm_unlearn": Project("647f309", {"llmu": "llmu_llm_unlearn"}),
    "SKU": Project("a17663f", {"sku": "sku_sku"}),
    "erasus": Project(
        "0.2.0",
        {
            "grad_ascent": "shift_off_by_one",
            "npo": "npo_vocabulary_mean",
            "scrub": "scrub_without_forget",
            "simnpo": "npo_no_reference_unshifted",
            "undial": "undial_softened_teacher",
        },
    ),
    "forgetium": Project(
        "0.2.1",
        {
            "grad_ascent": "original",
            "grad_diff": "original",
            "kl": "kl_answer_token_mean",
            "npo": "original",
            "idk": "paper",
        },
    ),
    "liger-kernel": Project("0.8.5", {"dpo": "original", "kl": "kl_jsd_half"}),
    "FIUBench": Project(
        "8e12cdd", {"grad_ascent": "original", "grad_diff": "original", "kl": "original"}
    ),
    "NPO": Project("1207bbe", OF_TOFU),
    "Unlearn-Simple": Project("f1a355d", {**OF_TOFU, "simnpo": "original"}),
}


def entries_of(method: str) -> list[Entry]:
    """The known mistakes, and then the meanings and mistakes of other projects, of a method."""
    return [entry for entry in ENTRIES.values() if method in entry.methods]


def find(method: str, name: str) -> Entry | str:
    """What a name means for a method: an entry, or semantics, if that is what a project computes.

    name    of a known mistake, of another project's meaning or mistake, or of a project
    raises  UserError for an unknown name, and for one that the method does not have
    """
    projects = {project.lower(): project for project in PROJECTS}
    if name.lower() in projects:
        project = projects[name.lower()]
        computed = PROJECTS[project].methods
        if method not in computed:
            raise UserError(
                f"{project} has no {method} that is known here; it has {', '.join(computed)}"
            )
        meaning = computed[method]
        return meaning if meaning in SEMANTICS else ENTRIES[meaning]
    if name not in ENTRIES:
        raise UserError(
            f"{name!r} is no known mistake, meaning or project{nearest(method, name)}; "
            "explain --mistakes prints all names"
        )
    entry = ENTRIES[name]
    if method not in entry.methods:
        raise UserError(f"{name} does not exist in {method}; it does in {', '.join(entry.methods)}")
    return entry


def nearest(method: str, name: str) -> str:
    """ "; the nearest name is NAME", names of the method first; "" if none is near."""
    own = [entry.name for entry in entries_of(method)]
    for names in (own, [*ENTRIES, *PROJECTS]):
        found = get_close_matches(name, names, n=1, cutoff=0.5)
        if found:
            return f"; the nearest name is {found[0]}"
    return ""
