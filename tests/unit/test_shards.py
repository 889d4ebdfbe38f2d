"""Which part of a run a process does."""

import pytest

from factlab.errors import InvalidRequestError
from factlab.shards import Shard

SLURM = {
    "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "9",
    "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"FACTLAB_SHARD": "2/5", "RANK": "0", "WORLD_SIZE": "9"}, Shard(2, 5)),
        ({"FACTLAB_SHARD": "any"}, Shard.any()),
        (SLURM, Shard(3, 4)),
        ({"JOB_COMPLETION_INDEX": "0", "FACTLAB_SHARDS": "3"}, Shard(1, 3)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Shard(4, 4)),
    ],
)
def test_a_cluster_says_which(environment, shard):
    assert Shard.of_environment(environment)[0] == shard
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "Nothing says which shard"),
        ({"RANK": "1"}, "Nothing says which shard"),
        ({"FACTLAB_SHARD": "two"}, "'two' is not understood"),
        (SLURM | {"SLURM_ARRAY_TASK_COUNT": "3"}, "has gaps"),
        (SLURM | {"SLURM_ARRAY_TASK_ID": "6"}, "has gaps"),
        ({"JOB_COMPLETION_INDEX": "0"}, "FACTLAB_SHARDS must be a whole number"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "out of range"),
    ],
)
def test_what_a_cluster_says_may_make_no_sense(environment, told):
    with pytest.raises(InvalidRequestError, match=told):
        Shard.of_environment(environment)


def test_what_takes_any_is_no_fixed_part():
    anything = Shard.any().checked()
    assert anything.takes_any
    assert anything.is_part
    assert anything.blocks(range(5), 2, 16) == Shard().blocks(range(5), 2, 16)
    assert not Shard().is_part
