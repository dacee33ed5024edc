#!/usr/bin/env bash
# FSDP2: an optimiser built after an evaluation never trains the embedding and the head.
#
# Versions   torch 2.13.0 (CPU, 2 processes, gloo)
# Situation  fully_shard on each layer and on the model; one forward without gradient, to know the loss
#            before training; then AdamW(model.parameters()) and 30 steps.
# Guess      a forward without gradient leaves no trace: training is the same with and without it.
# Behaviour  the forward leaves the weights of the outermost group (embedding, head) gathered, so
#            parameters() returns tensors that never get a gradient. No error, no warning, and the loss
#            falls, as the layers train. With model.reshard() before the optimiser all weights train.
# Seen       no evaluation:       loss 3.13 to 0.65, largest change of each weight 0.30 to 0.33
#            evaluation:          loss 3.13 to 2.1, embedding and head 0.0, layers 0.31 and 0.33
#            evaluation, reshard: as with no evaluation
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$home/run.py" <<'PY'
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

WORDS = torch.arange(8)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(16, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(2))
        self.head = torch.nn.Linear(8, 16)

    def forward(self, ids):
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden).tanh()
        return self.head(hidden)


def loss(model):
    return torch.nn.functional.cross_entropy(model(WORDS)[:-1], WORDS[1:])


def train(mesh, evaluate, reshard=False):
    """First and last loss, and the largest change of each weight."""
    torch.manual_seed(0)
    model = Model()
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    start = {name: each.full_tensor().detach().clone() for name, each in model.named_parameters()}
    if evaluate:
        with torch.no_grad():
            loss(model)
    if reshard:
        model.reshard()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        value = loss(model)
        value.backward()
        optimiser.step()
        losses.append(round(value.item(), 2))
    changes = {name: round(float((each.full_tensor().detach() - start[name]).abs().max()), 2)
               for name, each in model.named_parameters() if name.endswith("weight")}
    return losses[0], losses[-1], changes


def work(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + __file__ + ".meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    plain, evaluated = train(mesh, evaluate=False), train(mesh, evaluate=True)
    resharded = train(mesh, evaluate=True, reshard=True)
    if rank == 0:
        for name, seen in (("no evaluation", plain), ("evaluation", evaluated), ("evaluation, reshard", resharded)):
            print(f"{name}: loss {seen[0]} to {seen[1]}, largest change", seen[2])
        assert min(plain[2].values()) > 0.1 and resharded == plain
        assert evaluated[2]["embedding.weight"] == evaluated[2]["head.weight"] == 0
        assert min(evaluated[2][f"layers.{n}.weight"] for n in (0, 1)) > 0.1 and evaluated[1] < evaluated[0] - 0.5
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, nprocs=2)
PY
(cd "$home" && GLOO_SOCKET_IFNAME=lo "$home/venv/bin/python" run.py)
