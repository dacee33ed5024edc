"""Where the time of greedy generation goes: CPU time and matrix products, part by part."""

import time
from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from clear_ref.model.base_model import Model

TOWER = "pictures"  # vision tower and projector
PROMPTS = "decoder, prompts"
STEPS = "decoder, new tokens"
HEAD = "output layer"
REST = "rest"
PARTS = (TOWER, PROMPTS, STEPS, HEAD, REST)
Generate = Callable[[], object]
Clock = Callable[[], float]


def generation_parts(model: Model, generate: Generate) -> dict[str, dict[str, float]]:
    """{part: {cpu_seconds, gflop}} of two calls of `generate`, one timed and one counted.

    gflop  10^9 operations of the products with weights; those of attention are not counted
    """
    seconds = by_part(model, generate, time.process_time)
    with FlopCounterMode(display=False) as counter:
        operations = by_part(model, generate, counter.get_total_flops)
    return {part: {"cpu_seconds": seconds[part], "gflop": operations[part] / 1e9} for part in PARTS}


def by_part(model: Model, generate: Generate, clock: Clock) -> dict[str, float]:
    """By how much a clock goes on in each part of one call of `generate`."""
    found = dict.fromkeys(PARTS, 0.0)

    def measured(part_of: Callable[[Any], str], call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(first: Any, *more: Any, **named: Any) -> Any:
            began = clock()
            result = call(first, *more, **named)
            found[part_of(first)] += clock() - began
            return result

        return timed

    changed = {
        "embed": (model, measured(lambda _: TOWER, model.embed)),
        "head": (model, measured(lambda _: HEAD, model.head)),
        "forward": (model.decoder, measured(decoder_part, model.decoder.forward)),
    }
    began = clock()
    try:
        for name, (owner, function) in changed.items():
            setattr(owner, name, function)
        generate()
    finally:
        for name, (owner, _) in changed.items():
            delattr(owner, name)
    found[REST] = clock() - began - sum(found.values())
    return found


def decoder_part(embeddings: Any) -> str:
    """The part of a decoder's call with embeddings [B, T, D]."""
    return PROMPTS if embeddings.shape[1] > 1 else STEPS
