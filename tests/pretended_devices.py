"""Several devices that are not there: tensors that say they lie on one, compute on the CPU, and refuse to be mixed.

What CUDA refuses (a tensor of one device with one of another) is refused here too, so that code for models spread
over several devices can run where there is none. As on CUDA, scalars of the CPU go together with everything, and
indices may lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

TYPE = "cuda"
_aten = torch.ops.aten
_CROSSING = (_aten.copy_.default, _aten._to_copy.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)


class Pretended(Tensor):
    """A tensor on a device that is not there."""

    held: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> Pretended:
        if isinstance(held, Pretended):  # as accelerate calls the classes of parameters
            held, device = held.held, held.device
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", requires_grad=False,  # to PyTorch's C++, which would look for a driver
        )  # fmt: skip
        made.held, made.place = held, device
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretended({self.held!r}, {self.device})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """What is put where it belongs below any dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == TYPE:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Pretended):  # whose place C++ does not know
            return args[0].to(device=args[1].device, dtype=args[1].dtype)
        if func is Tensor.__getitem__ and isinstance(args[1], list):  # a list becomes a tensor where C++ thinks it is
            return args[0][torch.tensor(args[1])]
        return func(*args, **kwargs)


@contextmanager
def pretended_devices() -> Iterator[None]:
    """Within the block ``torch.device("cuda", n)`` can be used where there is no CUDA."""
    begin = torch.cuda._lazy_init
    torch.cuda._lazy_init = lambda: None
    try:
        with _Making(), _Pretending():
            yield
    finally:
        torch.cuda._lazy_init = begin


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    if func is _aten._fused_sdp_choice.default:
        return 0  # the mathematics: fused kernels are devices' own
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    found = {value.device for value in tensors if isinstance(value, Pretended)}
    asked = kwargs.get("device")
    wanted = None if asked is None or torch.device(asked).type == "meta" else torch.device(asked)
    if func not in _CROSSING:
        _check(func, args, tensors, found)
    device = wanted or (args[0].device if func in _CROSSING else next(iter(found), torch.device("cpu")))
    back = {id(value.held): value for value in tensors if isinstance(value, Pretended)}
    inner = tree_map(lambda value: value.held if isinstance(value, Pretended) else value, (args, dict(kwargs)))
    if asked is not None:
        inner[1]["device"] = torch.device("cpu")
    result = func(*inner[0], **inner[1])
    if device.type != TYPE:
        return result
    return tree_map(
        lambda value: back.get(id(value), Pretended(value, device)) if isinstance(value, Tensor) else value, result
    )


def _check(func: Any, args: Any, tensors: list[Tensor], found: set[torch.device]) -> None:
    if not found:
        return
    on_cpu = [value for value in tensors if not isinstance(value, Pretended) and value.ndim]
    if func in _INDEXING:
        on_cpu = [value for value in on_cpu if value is args[0]]
    if len(found) > 1 or on_cpu:
        where = sorted({str(device) for device in found} | {"cpu" for _ in on_cpu})
        raise RuntimeError(f"expected all tensors to be on the same device, found {' and '.join(where)} in {func}")
