"""Which records of a step are computed together, and by which process.

A step is cut into parts, and part i goes to process i % n. Which records a step has does not depend
on the number of processes: draws are functions of (seed, purpose, epoch, index).

every reduction divides by the step (paper)
    the records are cut into parts of records_at_once, and of fewer if there would be fewer parts
    than processes
by batch (released, original)
    a part is a batch of batch_size records. With fewer batches than processes each batch is cut
    into pieces, which keep the batch's padding, counts and key

So that every process computes as many parts, some get a part of another one a second time, with
weight zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Part:
    """Records that are computed together.

    indices  of the records in the plan
    batch    number of the batch by whose counts reductions divide; without by_batch the whole step
             is batch 0
    first    the first index of the part, or with by_batch of its batch: random choices depend on it
    counted  False for a part that another process computes too: its weight is zero
    """

    indices: Sequence[int]
    batch: int
    first: int
    counted: bool = True


def chunks(indices: Sequence[int], most: int) -> list[Sequence[int]]:
    """The indices in runs of at most `most`."""
    return [indices[start : start + most] for start in range(0, len(indices), most)]


def parts_of(
    indices: Sequence[int], by_batch: bool, batch_size: int, at_once: int, n_processes: int
) -> list[Part]:
    """The parts of a step.

    indices  of the step's records; at_once: most records of a part without by_batch
    """
    if not by_batch:
        most = min(at_once, -(-len(indices) // n_processes))
        return [Part(some, 0, some[0]) for some in chunks(indices, most)]
    batches = chunks(indices, batch_size)
    n_pieces = -(-n_processes // len(batches))
    parts = []
    for number, batch in enumerate(batches):
        for some in chunks(batch, -(-len(batch) // n_pieces)):
            parts.append(Part(some, number, batch[0]))
    return parts


def own_parts(parts: Sequence[Part], process: int, n_processes: int) -> list[Part]:
    """The parts of one process; as many for each, the last ones not counted where they repeat."""
    own = list(parts[process::n_processes])
    n_parts = -(-len(parts) // n_processes)
    while len(own) < n_parts:
        own.append(replace(parts[0], counted=False))
    return own
