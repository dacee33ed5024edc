#!/usr/bin/env bash
# torch.distributed: whether destroy_process_group ends a group depends on when the first optimiser is made.
#
# Versions   torch 2.13.0 (CPU, gloo), Linux
# Situation  init_process_group, AdamW(...), destroy_process_group: the order of most training scripts. The same
#            with one AdamW made before init_process_group.
# Guess      destroy_process_group ends the group's threads and connections; an optimiser, which takes no
#            group, changes nothing about it.
# Behaviour  the first optimiser of a process imports torch._dynamo, and that torch.distributed.nn.functional,
#            whose functions have the group of that moment as the default of an argument. So the group is
#            never freed: its three threads and its connections stay until the process ends, also beside a
#            new group that is made later, and functional.all_reduce(x) then goes over the old one. If the
#            first optimiser is made before init_process_group, the default is None and all threads end.
#            Nothing is printed in either case.
# Seen       optimiser first: threads 3 in the group, 0 after it; old group kept: False
#            optimiser second: threads 3 in the group, 3 after it; old group kept: True
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$home/run.py" <<'PY'
import inspect
import os
import sys

import torch
import torch.distributed as dist


def threads():
    return len(os.listdir("/proc/self/task"))


def optimiser():
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])


torch.set_num_threads(1)
order, folder = sys.argv[1:]
if order == "first":
    optimiser()
before = threads()
dist.init_process_group("gloo", init_method=f"file://{folder}/one-{order}", rank=0, world_size=1)
inside = threads() - before
old = dist.group.WORLD
if order == "second":
    optimiser()
dist.destroy_process_group()

from torch.distributed.nn import functional

default = inspect.signature(functional.all_reduce).parameters["group"].default
keeps = default is old
del old, default
print(f"optimiser {order}: threads {inside} in the group, {threads() - before} after it; old group kept: {keeps}")
PY
for order in first second; do
    "$home/venv/bin/python" "$home/run.py" $order "$home" | tee -a "$home/seen"
done
grep -qx "optimiser first: threads 3 in the group, 0 after it; old group kept: False" "$home/seen"
grep -qx "optimiser second: threads 3 in the group, 3 after it; old group kept: True" "$home/seen"
