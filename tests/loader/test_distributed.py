"""Two processes under torchrun, connected by gloo, share the epochs of one dataset."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from support.samples import Numbered

from imagearchive.loader.data_loader import DataLoader

pytest.importorskip("torch")

PROGRAM = """
import json
import os
import sys

import numpy as np
import torch
import torch.distributed as dist

from imagearchive.loader.data_loader import DataLoader


# Called as in support.samples: the name is part of a saved state.
class Numbered:
    def __len__(self):
        return 203

    def __getitem__(self, index):
        return np.full((4, 4, 3), index, np.uint8), index


def make(**options):
    return DataLoader(
        Numbered(), 8, shuffle=True, seed=6, image_size=4, num_workers=2, enable_distributed=True,
        **options,
    )


early = make()
dist.init_process_group("gloo")
rank, world_size = dist.get_rank(), dist.get_world_size()
result = {"rank": rank, "world_size": world_size}

# Made before the process group was initialized, it still finds its rank.
result["whole"] = [labels.tolist() for _, labels in early]
dropping = make(drop_last=True)
result["dropped"] = []
for _ in range(2):
    for _, labels in dropping:
        # Ranks with unequal numbers of batches would wait here forever.
        dist.all_reduce(labels.sum())
        result["dropped"].append(labels.tolist())

halted = make()
iterator = iter(halted)
result["before"] = [next(iterator)[1].tolist() for _ in range(5)]
iterator.close()
states = [None] * world_size
dist.all_gather_object(states, halted.state_dict())
assert all(state == states[0] for state in states)
result["state"] = states[0]
results = [None] * world_size
dist.all_gather_object(results, result)
if rank == 0:
    with open(sys.argv[1], "w") as file:
        json.dump(results, file)
dist.barrier()
dist.destroy_process_group()
# Some builds of torch abort in their own destructors at the end.
os._exit(0)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    out = folder / "out.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-addr", "127.0.0.1", "--master-port", "0", "--standalone"),
        *(str(program), str(out)),
    ]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text())


def test_distributed_ranks_together_yield_every_sample_once(results):
    assert [result["rank"] for result in results] == [0, 1]
    seen = [i for result in results for batch in result["whole"] for i in batch]
    assert sorted(seen) == list(range(203))


def test_distributed_with_drop_last_has_equally_many_batches_on_every_rank(results):
    counts = [len(result["dropped"]) for result in results]
    assert counts == [2 * (203 // 16)] * 2
    for epoch in range(2):
        part = slice(epoch * (203 // 16), (epoch + 1) * (203 // 16))
        seen = [i for result in results for batch in result["dropped"][part] for i in batch]
        assert len(seen) == len(set(seen)) == 203 // 16 * 16


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_distributed_epoch_is_resumed_by_any_number_of_ranks(results, world_size):
    seen = [i for result in results for batch in result["before"] for i in batch]
    assert len(seen) == 80
    for rank in range(world_size):
        loader = DataLoader(
            Numbered(203), 5, shuffle=True, seed=6, image_size=4, num_workers=1, rank=rank,
            world_size=world_size,
        )  # fmt: skip
        loader.load_state_dict(results[0]["state"])
        seen += [i for _, labels in loader for i in labels.tolist()]
    assert sorted(seen) == list(range(203))
