"""A linear layer whose rows do not see each other: torch's own gives a row other bits when other rows come with it. And whether
bfloat16 makes products faster."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.nn.functional import linear as torchs
from torch.optim.optimizer import register_optimizer_step_post_hook

from longshort.engine import cpu
from longshort.tracing import eager


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, like `torch.nn.functional.linear`, in inference also with the promise that a row of the result depends on its
    row of x alone: bit by bit the same however many rows there are, wherever it stands, and whatever the number of threads.

    Inference is: float32 on a CPU, and no gradient is wanted. Then W is packed, once for all calls with the same tensor, for as
    long as it lives. What changes it, an optimiser or `load_state_dict`, is seen, and it is packed anew; what writes through
    `weight.data` or through memory that is shared with NumPy is not. A weight that is made for one call is packed for that one.

    Everything else goes to torch, without the promise: training, other types and devices, autocast, torch.compile, torch.func,
    and an installation without the native extension.

    Args:
        x: [*, K].
        weight: W, [N, K].
        bias: b, [N], or None.

    Returns:
        [*, N], of the type of x.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if not x.dim() or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or not (bias is None or bias.shape == weight.shape[:1]):
        came = ", ".join("none" if v is None else str(list(v.shape)) for v in (x, weight, bias))
        raise ValueError(f"x must be [*, K], weight [N, K] and bias [N] or None, got {came}.")
    if not able(x, weight, bias):
        return torchs(x, weight, bias)
    K = x.shape[-1]
    rows, b = x.reshape(-1, K).contiguous(), None if bias is None else bias.contiguous()
    y = cpu._empty(*x.shape[:-1], weight.shape[0], dtype=torch.float32)
    _packed(weight).run(rows.data_ptr(), len(rows), 0 if b is None else b.data_ptr(), y.data_ptr(), torch.get_num_threads())
    return y


def fast_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16. On a CPU that has none, torch's take some sixty times as
    long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or (cpu.native is not None and "avx512bf16" in cpu.native.instruction_sets())


def able(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these tensors as they are: plain float32 ones on the CPU of which no gradient is wanted, where
    nothing compiles, traces or casts."""
    if cpu.native is None or torch.is_autocast_enabled("cpu") or not eager():
        return False
    grad = torch.is_grad_enabled()
    for v in tensors:
        if v is not None and (
            type(v) not in cpu.OWN
            or v.dtype is not torch.float32
            or not v.is_cpu
            or not v.numel()
            or v.is_neg()
            or (grad and v.requires_grad)
        ):
            return False
    return True


class _Kept(NamedTuple):
    weight: ReferenceType[Tensor]
    memory: Tensor  # shares the weight's, so that no other weight can come to lie there
    version: int
    layer: Any


_kept: dict[int, _Kept] = {}  # by the id of the weight


@cache
def _watch() -> None:
    """Fused optimisers do not count their changes in the tensor's version."""
    register_optimizer_step_post_hook(lambda *_: _kept.clear())


def _packed(weight: Tensor) -> Any:
    def pack() -> Any:
        w = weight.detach().contiguous()
        return cpu.native.Linear(*w.shape, w.data_ptr(), torch.get_num_threads())

    if weight.is_inference():  # nobody counts its changes
        return pack()
    key, old = id(weight), _kept.get(id(weight))
    if old and old.weight() is weight and old.version == weight._version and old.memory.is_set_to(weight):
        return old.layer
    _watch()
    layer = pack()
    _kept[key] = _Kept(ref(weight, lambda _: _kept.pop(key, None)), weight.detach(), weight._version, layer)
    return layer
