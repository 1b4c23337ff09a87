"""CPU arithmetic that is the same on every maker's processor: right, differentiable, and cut up by shape alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

# Run in a process of its own: the replaced kernels would stay for every other test. Prints, as JSON, the largest
# relative error against float64 by PyTorch's own kernels, and a hash of all results.
SCRIPT = """
import hashlib, json
import torch
from ingot.exact import cpu_math

torch.manual_seed(0)
shapes = [(1, 1, 1), (3, 0, 4), (0, 5, 4), (37, 101, 29), (900, 256, 768), (700, 300, 5), (64, 2000, 1500)]
operands = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in shapes]
operands += [(b.T, a.T) for a, b in operands] + [(torch.randn(90, 64)[::2, 1:], torch.randn(7, 63).T)]
batches = [(torch.randn(6, 5, 4), torch.randn(6, 4, 3)), (torch.randn(40, 300, 64), torch.randn(40, 200, 64).mT)]
bias, roots = torch.randn(768), torch.rand(10000)
wanted = [a.double() @ b.double() for a, b in operands + batches]
wanted += [2 * bias.double() + 3 * wanted[4], roots.double().sqrt()]
cpu_math.use()
got = [a @ b for a, b in operands + batches]
got += [torch.addmm(bias, *operands[4], beta=2, alpha=3), roots.sqrt()]
errors = [((x.double() - y).abs().max() / y.abs().max()).item() for x, y in zip(got, wanted) if y.numel()]
half = operands[3][0].bfloat16() @ operands[3][1].bfloat16()
errors16 = ((half.double() - wanted[3]).abs().max() / wanted[3].abs().max()).item()
small = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) \
for shape in [(3, 4), (4, 5), (5,), (2, 3, 4), (2, 4, 3)]]
x, w, b, p, q = small
assert torch.autograd.gradcheck(lambda x, w, b, p, q: \
(torch.addmm(b, x, w), p @ q, x.mv(w[:, 0]), (x * x).sqrt()), small)
attention = torch.nn.functional.scaled_dot_product_attention(*torch.randn(3, 2, 4, 66, 64), is_causal=True)
got += [half.float(), attention]
bits = hashlib.sha256(b"".join(t.numpy().tobytes() for t in got)).hexdigest()
print(json.dumps([max(errors), errors16, got[4].is_contiguous(), bits]))
"""


def run(cores: set[int]) -> tuple[float, float, bool, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"OMP_NUM_THREADS": "4", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT],
        env=environment, text=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_right_and_the_same_on_one_core_and_on_all():
    everything = os.sched_getaffinity(0)
    error, error16, contiguous, bits = run(everything)
    assert error < 1e-6 and error16 < 1e-2 and contiguous
    assert run({min(everything)})[3] == bits
