#!/usr/bin/env bash
# DDP: forward, forward, backward, backward leaves the second loss's gradient different on each process.
#
# Versions   torch 2.13.0 (CPU, 2 processes, gloo)
# Situation  two losses of one model, as of forget and retain: both forwards first, then each loss gets
#            its own backward. The gradients of the first loss are 1 and 3 on the two processes, those of
#            the second 10 and 50, so the mean of the sum is 32.
# Guess      each backward averages what it adds, as FSDP2 does; or DDP raises.
# Behaviour  the second backward adds each process's own gradient. No error, no warning: the processes'
#            weights differ from the first step on. One backward of the sum, forward and backward in
#            turns, and FSDP2 in any order are right.
# Seen       DDP, forward, forward, backward, backward: 12 on process 0, 52 on process 1
#            DDP in the other two orders, FSDP2 in all three: 32 and 32
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$home/run.py" <<'PY'
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

FORGET = torch.tensor([[1.0], [3.0]])
RETAIN = torch.tensor([[10.0], [50.0]])


def forward_forward_backward_backward(model, rank):
    forget, retain = model(FORGET[rank]).sum(), model(RETAIN[rank]).sum()
    forget.backward()
    retain.backward()


def forward_backward_twice(model, rank):
    model(FORGET[rank]).sum().backward()
    model(RETAIN[rank]).sum().backward()


def forward_forward_one_backward(model, rank):
    (model(FORGET[rank]).sum() + model(RETAIN[rank]).sum()).backward()


def gradients(wrap, step, rank):
    model = wrap(torch.nn.Linear(1, 2, bias=False))
    step(model, rank)
    gradient = next(model.parameters()).grad
    mine = (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).clone()
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    return [float(each[0]) for each in both]


def work(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + __file__ + ".meet", rank=rank, world_size=2)
    sharded = partial(fully_shard, mesh=init_device_mesh("cpu", (2,)))
    for name, wrap in (("DDP", DistributedDataParallel), ("FSDP2", sharded)):
        for step in (forward_backward_twice, forward_forward_one_backward, forward_forward_backward_backward):
            seen = gradients(wrap, step, rank)
            if rank == 0:
                print(f"{name}, {step.__name__}: gradient on process 0, 1:", seen, flush=True)
            broken = name == "DDP" and step is forward_forward_backward_backward
            assert seen == ([2.0 + 10.0, 2.0 + 50.0] if broken else [2.0 + 30.0, 2.0 + 30.0]), seen
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, nprocs=2)
PY
(cd "$home" && GLOO_SOCKET_IFNAME=lo "$home/venv/bin/python" run.py)
