"""python -m tests.helpers.slow_evaluation GROUPS COMMAND ...: process 0 waits in an evaluation.

It waits for a signal before it computes its group after GROUPS groups of records, while the others
wait for its results. Results are exchanged after each group.
"""

import os
import sys
import time

from clear_ref import run
from clear_ref.common import processes
from clear_ref.evaluation import evaluate


def wait_after(n_groups):
    """Make this process wait when its group after n_groups begins."""
    groups, original = [0], evaluate.group_logs

    def counted(*arguments):
        if groups[0] == n_groups:
            time.sleep(300)
        groups[0] += 1
        return original(*arguments)

    evaluate.group_logs = counted


if __name__ == "__main__":
    processes.ITEMS_PER_EXCHANGE = 1
    if os.environ["RANK"] == "0":
        wait_after(int(sys.argv[1]))
    sys.exit(run.main(sys.argv[2:]))
