"""certify: every claim about every method and semantics, measured in float64."""

from argparse import Namespace

from clear_ref.oracle.certify import certificates

from .output import Output


def command(arguments: Namespace) -> Output:
    """What `certify` prints; it fails if a claim does not hold."""
    found = certificates.certify()
    return Output(found, certificates.text, certificates.check)
