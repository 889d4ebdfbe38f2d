"""How much memory a model takes, told by its config before any weight is read.

A model that does not fit is found out in a second then, and not by a machine that has ground to a
halt; and it can be said what would fit.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from factlab.errors import ModelLoadError
from factlab.families import ARCHITECTURES
from factlab.models.budget import GIB
from factlab.models.free_memory import free_bytes
from factlab.projections import widths_of
from factlab.transformers_api import auto_class

# A matrix of a second moment, in float64.
_DOUBLE = 8


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model's weights and the statistics of its layers take.

    Attributes:
        name: of the model.
        n_weights: numbers in its parameters and buffers.
        n_layers: decoder layers; 0 if its family is not known.
        d_mlp: width of its widest MLP, by which statistics go; 0 if its family is not known.
    """

    name: str
    n_weights: int
    n_layers: int
    d_mlp: int

    @classmethod
    def of(cls, config: PretrainedConfig, name: str) -> "Footprint":
        """That of a model which is not there.

        Args:
            config: the model's; no weight is made of it.
            name: of the model.
        """
        with torch.device("meta"):
            model = auto_class(config).from_config(config)
        numbers = (*model.parameters(), *model.buffers())  # tied ones are there once
        family = ARCHITECTURES.get(str(config.model_type))
        layers = [] if family is None else list(model.get_submodule(family.layers).children())
        widths = [0 if family is None else _width(layer, family.mlp_out) for layer in layers]
        return cls(name, sum(n.numel() for n in numbers), len(layers), max(widths, default=0))

    def weights_gib(self, dtype: torch.dtype) -> float:
        """GiB of the weights in a float type."""
        return self.n_weights * dtype.itemsize / GIB

    @property
    def moment_gib(self) -> float:
        """GiB of one layer's second moment, and of every other matrix of its size in float64."""
        return _DOUBLE * self.d_mlp**2 / GIB

    def besides(self, n_layers: int = 5) -> dict[str, float]:
        """GiB that commands take on the CPU besides the weights and what `memory_gib` allows.

        It is what no smaller batch would change. With the weights on a GPU it is the CPU's memory
        still, since the matrices of all edited layers are kept there.

        Args:
            n_layers: that `memit` and its kind edit, and `stats` is asked for.
        """
        each = self.moment_gib
        return {
            "generate, trace, ft": 0.0,
            "stats": (n_layers + 1) * each,  # the sums; the first of them becomes its mean
            "rome": 2 * each,  # C and its Cholesky factor
            "memit": 2 * n_layers * each,
            "alphaedit": (2 * n_layers + 2) * each,  # eigenvectors, and room to find them
        }


def _width(layer: nn.Module, path: str) -> int:
    """Length of the keys of a layer; 0 where it has no such matrix."""
    try:
        sizes = widths_of(layer.get_submodule(path))
    except AttributeError:
        return 0
    return 0 if sizes is None else sizes[1]


def free_gib() -> dict[torch.device, float]:
    """GiB that are free on each device of this machine, the CPU first."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(n_gpus))]
    return {device: (free_bytes(device) or 0) / GIB for device in devices}


def check_fits(config: PretrainedConfig, dtype: torch.dtype, placement: str, name: str) -> None:
    """Refuse a model whose weights are larger than the memory that is free for them.

    Quantised checkpoints are not judged, nor what spreads over several devices.

    Raises:
        ModelLoadError: says how much it takes, how much there is, and what would fit.
    """
    if placement == "auto" or getattr(config, "quantization_config", None) is not None:
        return
    free = free_bytes(torch.device(placement))
    if free is None:
        return
    try:
        model = Footprint.of(config, name)
    except Exception:  # what odd configs make transformers raise: reading the model says it better
        return
    if model.weights_gib(dtype) > free / GIB:
        raise ModelLoadError(_too_large(model, dtype, placement, free / GIB))


def _too_large(model: Footprint, dtype: torch.dtype, placement: str, free: float) -> str:
    said = (
        f"{model.name} does not fit: its {model.n_weights / 1e9:.2f} billion weights take "
        f"{model.weights_gib(dtype):.1f} GiB in {str(dtype).removeprefix('torch.')}, and "
        f"{placement} has {free:.1f} GiB free."
    )
    half = model.weights_gib(torch.bfloat16)
    if half < model.weights_gib(dtype):
        fits = "fit" if half < free else "not fit either"
        said += f" In bfloat16 (--dtype bfloat16) its {half:.1f} GiB would {fits}."
    if placement != "cpu":
        said += " --device auto spreads it over all GPUs and the CPU's memory."
    return f"{said} 'factlab memory' says what else it takes."
