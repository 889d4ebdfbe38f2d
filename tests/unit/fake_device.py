"""A second device that is not there: what would fail on a GPU fails on the CPU.

Inside `FakeGpu` every tensor is an ordinary one of the CPU, with the same bits as ever, but its
storage may be marked as lying on `cuda:0`. A storage is marked when the tensor is made with
`device="cuda"`, moved there by `.to()`, or computed from marked ones. What the mode then does is
what CUDA does:

* tensors of both places in one operation are refused, but for scalars of the CPU (no dimensions)
  among tensors of the GPU, indices of the CPU into tensors of the GPU, and `copy_`;
* `.device`, `.is_cuda` and `.is_cpu` say where a tensor is said to be;
* `.numpy()`, `numpy.asarray` and `torch.from_numpy` do not work on the GPU's tensors;
* the gradient of what was moved goes back to where it came from.

Whatever makes the CPU wait for the GPU is counted, with the line of factlab that did it, see
`Waits`: numbers fetched (`.item()`, `.tolist()`, `bool(...)`, `.cpu()`), numbers sent from
ordinary memory (`.to("cuda")`, `torch.tensor(..., device="cuda")`, indices), and results whose
size depends on the numbers (`nonzero`, boolean masks).

What it cannot see: what numbers a GPU would have computed, memory, streams, threads other than the
one that entered it, and kernels that CUDA lacks.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from factlab.places import places

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_GIB = 2**30

_aten = torch.ops.aten
# Copies between devices are what `copy_` is for.
_COPIES = {_aten.copy_, _aten.set_}
# The operation takes indices of the CPU, and sends them over by itself.
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
# Lengths and sizes stay on the CPU.
_WITH_LENGTHS = {_aten._pack_padded_sequence, _aten.lstm, _aten._pad_packed_sequence}
# A scalar of the CPU is no scalar here: it becomes a piece of the result.
_PIECES = {_aten.cat, _aten.stack, _aten.index_select, _aten.gather, _aten.scatter, _aten.embedding}
# How large the result is, or what it is, the CPU has to be told.
_FETCHING = {
    _aten._local_scalar_dense,
    _aten.nonzero,
    _aten.masked_select,
    _aten.equal,
    _aten.is_nonzero,
    _aten.unique_dim,
    _aten._unique2,
    _aten.unique_consecutive,
    _aten.repeat_interleave,
    _aten.bincount,
    _aten.linalg_eigh,
    _aten._linalg_eigh,
    _aten.linalg_cholesky_ex,
}


@dataclass
class Waits:
    """How often the CPU waited for the GPU, by the line of factlab that made it wait.

    Attributes:
        fetched: numbers, or the size of a result, came from the GPU.
        sent: numbers went to the GPU from ordinary memory.
    """

    fetched: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def n(self) -> int:
        return self.fetched.total() + self.sent.total()


def _line() -> str:
    """The innermost line of factlab that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/factlab/" in path and "/tests/" not in path:
            return f"{path.rpartition('/factlab/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class _Marks:
    """Which storages are said to be on the GPU; a storage's address is not used again meanwhile."""

    def __init__(self) -> None:
        self._held: dict[int, StorageWeakRef] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self._held

    def put(self, tensor: Tensor, on_gpu: bool) -> None:
        if tensor.device.type != "cpu":
            return  # of no numbers, such as meta
        storage = tensor.untyped_storage()
        if on_gpu:
            self._held.setdefault(storage._cdata, StorageWeakRef(storage))
        else:
            self._held.pop(storage._cdata, None)


class _Moved(torch.autograd.Function):
    """A copy on the other side, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, marks: _Marks, to_gpu: bool) -> Tensor:
        ctx.marks, ctx.was = marks, tensor in marks
        moved = tensor.detach().clone()
        marks.put(moved, to_gpu)
        return moved

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        back = grads[0].clone()
        ctx.marks.put(back, ctx.was)
        return back, None, None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


class _Operations(TorchDispatchMode):
    """Every operation, those inside others and of backward passes too: checked and marked."""

    def __init__(self, gpu: "FakeGpu") -> None:
        super().__init__()
        self._gpu = gpu
        # Where tensors are made that come from none: those an operation makes on its way.
        self.inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given, marks = _tensors((args, kwargs)), self._gpu.marks
        on_gpu = any(tensor in marks for tensor in given)
        if on_gpu:
            self._check(func, args, kwargs, given)
        if on_gpu and func.overloadpacket is _aten.histc and not args[0].is_floating_point():
            # A kernel that only CUDA has.
            result = func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        else:
            result = func(*args, **kwargs)
        if on_gpu or (self.inside and not given):
            before = {t.untyped_storage()._cdata for t in given if t.device.type == "cpu"}
            for i, made in enumerate(_tensors(result)):
                if i and func.overloadpacket is _aten._pack_padded_sequence:
                    continue  # the sizes of its batches
                if made.device.type == "cpu" and made.untyped_storage()._cdata not in before:
                    marks.put(made, True)
        return result

    def _check(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        operation, marks = func.overloadpacket, self._gpu.marks
        if operation in _FETCHING:
            self._gpu.waits.fetched[_line()] += 1
        if operation in _WITH_LENGTHS:
            return
        if operation in _COPIES:
            if (args[0] in marks) != (args[1] in marks):
                self._gpu.count(to_gpu=args[0] in marks)
            return
        strangers = [t for t in given if t not in marks and t.device.type == "cpu"]
        if operation in _INDEXED and args[0] in marks:
            indices = [t for t in args[1] if t is not None]
            for index in indices:
                if index not in marks:
                    self._gpu.waits.sent[_line()] += 1
                elif index.dtype in (torch.bool, torch.uint8):
                    self._gpu.waits.fetched[_line()] += 1
            strangers = [t for t in strangers if not any(t is each for each in indices)]
        written = _written(func, args, kwargs)
        for tensor in strangers:
            alone = tensor.dim() == 0 and operation not in _PIECES
            if not alone or any(tensor is each for each in written):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two "
                    f"devices, {GPU} and cpu! ({func}, {_line()})"
                )


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation writes into."""
    found: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[i] if i < len(args) else kwargs.get(argument.name))
    return _tensors(found)


class FakeGpu(TorchFunctionMode):
    """Inside it there is a device `cuda`, see the head of this file.

    Attributes:
        waits: how often the CPU waited since the mode was entered, or since `counting` began.
        free_gib: what memory the device says that it has left.
    """

    def __init__(self, free_gib: float = 8.0) -> None:
        super().__init__()
        self.marks, self.waits, self.free_gib = _Marks(), Waits(), free_gib
        self._operations = _Operations(self)
        self._patches: list[Any] = []
        self._own: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: self._device_of,
            Tensor.is_cuda.__get__: lambda tensor: tensor in self.marks,
            Tensor.is_cpu.__get__: lambda tensor: self._device_of(tensor).type == "cpu",
            Tensor.get_device: lambda tensor: 0 if tensor in self.marks else -1,
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor, **_: self._move(tensor, _CPU),
            Tensor.cuda: lambda tensor, *_, **__: self._move(tensor, GPU),
            Tensor.type_as: self._to,
            Tensor.tolist: self._tolist,
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._array,
            torch.as_tensor: self._as_tensor,
            torch.asarray: self._as_tensor,
        }

    def __enter__(self) -> "FakeGpu":
        free = int(self.free_gib * _GIB)
        for target, answer in {
            "factlab.models.request._has_gpu_driver": lambda: True,
            "torch.backends.cudnn.is_acceptable": lambda *_: False,
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.get_device_capability": lambda *_: (7, 0),  # none with products in groups
            "torch.cuda.mem_get_info": lambda *_: (free, free),
            "torch.cuda.memory_reserved": lambda *_: 0,
            "torch.cuda.memory_allocated": lambda *_: 0,
            "torch.cuda.synchronize": lambda *_: None,
            "torch.cuda.get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
            "torch.cuda.set_rng_state": lambda *_: None,
        }.items():
            patch = mock.patch(target, answer)
            patch.start()
            self._patches.append(patch)
        places.cache_clear()
        self._operations.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._operations.__exit__(*raised)
        places.cache_clear()
        while self._patches:
            self._patches.pop().stop()

    @contextmanager
    def counting(self) -> Iterator[Waits]:
        """Count only what happens inside."""
        before, self.waits = self.waits, Waits()
        try:
            yield self.waits
        finally:
            self.waits = before

    def count(self, to_gpu: bool) -> None:
        """Numbers go from one side to the other."""
        (self.waits.sent if to_gpu else self.waits.fetched)[_line()] += 1

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the GPU, asked from inside or outside."""
        with torch._C.DisableTorchFunction():
            return tensor in self.marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if own := self._own.get(func):
            return own(*args, **kwargs)
        asked = kwargs.get("device")
        if asked is None or torch.device(asked).type not in ("cpu", "cuda"):
            return self._called(func, args, kwargs, any(t in self.marks for t in _tensors(args)))
        # A tensor is made somewhere.
        there = torch.device(asked).type == "cuda"
        kwargs["device"] = _CPU
        made = self._called(func, args, kwargs, False)
        for tensor in _tensors(made):
            self.marks.put(tensor, there)
        if there and func is torch.tensor:
            self.count(to_gpu=True)
        return made

    def _called(self, func: Any, args: Any, kwargs: Any, inside: bool) -> Any:
        before, self._operations.inside = self._operations.inside, inside
        try:
            return func(*args, **kwargs)
        finally:
            self._operations.inside = before

    def _device_of(self, tensor: Tensor) -> torch.device:
        return GPU if tensor in self.marks else tensor.device

    def _move(self, tensor: Tensor, device: torch.device, copy: bool = False) -> Tensor:
        if device.type not in ("cpu", "cuda") or tensor.device.type != "cpu":
            return tensor.to(device)
        there = device.type == "cuda"
        if there == (tensor in self.marks):
            return tensor.clone() if copy else tensor
        self.count(to_gpu=there)
        moved: Any = _Moved.apply(tensor, self.marks, there)
        return moved

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        other = kwargs.pop("other", args[0] if args else None)
        if isinstance(other, Tensor):
            device, dtype = self._device_of(other), other.dtype
        else:
            device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        moved = tensor if device is None else self._move(tensor, device, copy)
        if dtype is None or dtype == moved.dtype:
            return moved.clone() if copy and moved is tensor else moved
        return moved.to(dtype)

    def _tolist(self, tensor: Tensor) -> Any:
        if tensor in self.marks:
            self.count(to_gpu=False)
        return tensor.tolist()

    def _refuse(self, tensor: Tensor) -> None:
        if tensor in self.marks:
            raise TypeError(
                f"can't convert {GPU} device type tensor to numpy. Use Tensor.cpu() to copy the "
                f"tensor to host memory first. ({_line()})"
            )

    def _numpy(self, tensor: Tensor, **kwargs: Any) -> Any:
        self._refuse(tensor)
        return tensor.numpy(**kwargs)

    def _array(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._refuse(tensor)
        return tensor.__array__(*args, **kwargs)

    def _as_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        device = kwargs.pop("device", None)
        made = torch.as_tensor(data, **kwargs)
        return made if device is None else self._move(made, torch.device(device))
