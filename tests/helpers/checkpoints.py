"""The newest checkpoint in a directory, as its index says."""

import json


def indexes(directory):
    """The paths of all indexes, that of the newest step last."""
    return sorted(directory.glob("state-*.json"), key=lambda path: int(path.stem.split("-")[-1]))


def newest(directory):
    """The values of the newest index; None if there is none."""
    paths = indexes(directory)
    return json.loads(paths[-1].read_text()) if paths else None
