"""What may be done to a call beside computing it: torch.compile, torch.func, tracing, forward mode, dispatch modes."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether this call is compiled by torch.compile, transformed by torch.func, traced by torch.jit, or differentiated in
    forward mode."""
    if torch.compiler.is_compiling():
        return True
    inside = torch._C._functorch.peek_interpreter_stack() is not None or torch._C._is_tracing()
    return inside or forward_ad._current_level >= 0


def eager() -> bool:
    """Whether tensors are what they look like, with memory of their own: nothing traces, compiles or transforms this call."""
    return not transformed() and not torch._C._len_torch_dispatch_stack()
