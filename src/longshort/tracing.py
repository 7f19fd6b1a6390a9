"""What may be done to a call instead of computing it: torch.compile, torch.func, and modes that see every operator."""

from __future__ import annotations

import torch


def transformed() -> bool:
    """Whether this call is compiled by torch.compile, or transformed by torch.func."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def eager() -> bool:
    """Whether tensors are what they look like, with memory of their own: nothing traces, compiles or transforms this call."""
    return not transformed() and not torch._C._len_torch_dispatch_stack()
