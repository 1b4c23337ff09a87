"""Training by the PEFT engine on a CUDA device, with the settings of the recipes: to the same bits in every process."""

from __future__ import annotations

import pytest

from tests.test_engine import killed_and_resumed_equals_uninterrupted, train, workplace

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a CUDA device"),
]
RECIPE = {
    "adapter__device": "cuda",
    "adapter__precision": "bf16",
    "adapter__gradient_checkpointing": True,
    "adapter__optimizer": "adamw_8bit",
}


@pytest.mark.parametrize("method", ["qlora", "lora"])
@pytest.mark.parametrize("packing", [False, True])
def test_two_processes_make_one_adapter(base, tmp_path, method, packing):
    changes = RECIPE | {"adapter__method": method, "adapter__packing": packing, "max_seq_length": 64}
    folder = workplace(tmp_path, base, **changes)
    assert train(folder) == train(folder, PYTHONHASHSEED="7", OMP_NUM_THREADS="1")


def test_killed_and_resumed_equals_uninterrupted_on_the_gpu(base, tmp_path):
    killed_and_resumed_equals_uninterrupted(base, tmp_path, **RECIPE)
