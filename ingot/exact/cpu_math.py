"""The CPU arithmetic whose bits move with the processor's maker, done so that they do not.

PyTorch multiplies matrices on a CPU with MKL, whose kernels differ between Intel and AMD whatever MKL_CBWR says, and
takes roots with MKL's vector library, which does not always round correctly: the same wheels made two adapters
(benchmarks/README.md). Here products go to the OpenBLAS inside NumPy, its kernels pinned by OPENBLAS_CORETYPE and one
thread each (determinism.py); a large product is cut into pieces that depend on its shape alone, and threads take whole
pieces. Roots are NumPy's, rounded correctly as IEEE 754 demands. As fast as MKL on these shapes.

MKL also computes exp and log of whole tensors; training uses neither for anything that is kept.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch

PIECES = 32  # that a product is cut into at most; more cores than this have nothing to do
PIECE = 128  # rows or columns of a piece at least
SMALL = 1 << 22  # multiply-adds of a product that is not worth cutting

_pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
_library = torch.library.Library("aten", "IMPL")  # holds what is replaced, for as long as the process lives


@functools.cache
def use() -> None:
    """Replace PyTorch's CPU kernels in this process; autograd's formulas call the replacements too.

    Attention is formed from the replaced products: PyTorch's fused kernel calls MKL by itself, and at some lengths the
    makers differ there. It costs the attention weights' memory, batch × heads × length² floats a layer.
    """
    torch.backends.cuda.enable_flash_sdp(False)  # in spite of its name, the CPU's too
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*operators may also be overridden")  # as is meant
        for operator in (mm, addmm, bmm, baddbmm, mv, addmv, dot, sqrt, sqrt_):
            _library.impl(operator.__name__, operator, "CPU")


def mm(a, b):
    """[m, k] × [k, n] → [m, n]"""
    if a.dtype in (torch.bfloat16, torch.float16):
        return mm(a.float(), b.float()).to(a.dtype)
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    _product(a.detach().numpy(), b.detach().numpy(), out.numpy())
    return out


def _product(a: numpy.ndarray, b: numpy.ndarray, out: numpy.ndarray) -> None:
    rows, columns = out.shape
    if rows * columns * a.shape[1] <= SMALL:
        numpy.matmul(a, b, out=out)
    elif rows >= columns:
        list(_pool.map(lambda piece: numpy.matmul(a[piece], b, out=out[piece]), _pieces(rows, PIECE)))
    else:
        list(_pool.map(lambda piece: numpy.matmul(a, b[:, piece], out=out[:, piece]), _pieces(columns, PIECE)))


def _pieces(length: int, least: int) -> list[slice]:
    size = max(least, -(-length // PIECES))
    return [slice(start, start + size) for start in range(0, length, size)]


def addmm(bias, a, b, *, beta=1, alpha=1):
    """beta · bias + alpha · [m, k] × [k, n]"""
    return _scaled_sum(bias, mm(a, b), beta, alpha)


def bmm(a, b):
    """[batch, m, k] × [batch, k, n] → [batch, m, n]"""
    if a.dtype in (torch.bfloat16, torch.float16):
        return bmm(a.float(), b.float()).to(a.dtype)
    out = torch.empty(a.shape[0], a.shape[1], b.shape[2], dtype=a.dtype)
    x, y, z = a.detach().numpy(), b.detach().numpy(), out.numpy()
    if math.prod(out.shape) * a.shape[2] <= SMALL:
        numpy.matmul(x, y, out=z)
    else:  # each product is computed by itself, so how many a thread takes changes nothing
        list(_pool.map(lambda part: numpy.matmul(x[part], y[part], out=z[part]), _pieces(len(z), 1)))
    return out


def baddbmm(bias, a, b, *, beta=1, alpha=1):
    """beta · bias + alpha · [batch, m, k] × [batch, k, n]"""
    return _scaled_sum(bias, bmm(a, b), beta, alpha)


def mv(a, x):
    """[m, k] × [k] → [m]"""
    return mm(a, x[:, None])[:, 0]


def addmv(bias, a, x, *, beta=1, alpha=1):
    """beta · bias + alpha · [m, k] × [k]"""
    return _scaled_sum(bias, mv(a, x), beta, alpha)


def dot(x, y):
    """[k] · [k] → []"""
    return mm(x[None], y[:, None])[0, 0]


def _scaled_sum(bias, product, beta, alpha):
    if alpha != 1:
        product = product * alpha
    return product if beta == 0 else product + (bias if beta == 1 else bias * beta)


def sqrt(x):
    if x.dtype not in (torch.float32, torch.float64):
        return sqrt(x.float()).to(x.dtype if x.is_floating_point() else torch.float32)
    out = torch.empty_like(x)
    numpy.sqrt(x.detach().numpy(), out=out.numpy())
    return out


def sqrt_(x):
    return x.copy_(sqrt(x))
