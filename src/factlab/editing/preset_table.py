"""Defaults per model, each with its source: the table alone, which needs no PyTorch.

A preset belongs to a family and a size, not to a file name, so that a fine-tuned or renamed
GPT-2 XL gets what GPT-2 XL gets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from factlab.editing.ultraedit_config import MlpPart


@dataclass(frozen=True, slots=True)
class Preset:
    """Where and how strongly the methods edit one model.

    Attributes:
        model: the model that the values were found for.
        family: architecture, as in `factlab.families`.
        n_layers: of the model.
        d_model: of the model.
        rome_layer: 0-based.
        rome_clamp: see `ValueConfig.clamp_factor`.
        rome_source: where these are from.
        memit_layers: 0-based, ascending; empty if unknown.
        memit_weight: λ of MEMIT.
        memit_clamp: see `ValueConfig.clamp_factor`.
        memit_source: where these are from.
        fine_tune: layer and ε of FT, FT+L and AttnEdit by method; ε is None without a bound.
        fine_tune_source: where these are from.
    """

    model: str
    family: str
    n_layers: int
    d_model: int
    rome_layer: int
    rome_clamp: float
    rome_source: str
    memit_layers: range = range(0)
    memit_weight: float = 15_000.0
    memit_clamp: float = 0.75
    memit_source: str = ""
    fine_tune: Mapping[str, tuple[int, float | None]] = field(default_factory=dict)
    fine_tune_source: str = ""


_MEASURED = "factlab, docs/results/editing.md"
_ROME_CODE, _MEMIT_CODE, _EASYEDIT = "ROME code", "MEMIT code", "EasyEdit"

PRESETS: tuple[Preset, ...] = (
    Preset(
        "SmolLM2-135M", "llama", 30, 576, 3, 4.0, _MEASURED,
        range(4), 2_000.0, 0.75, _MEASURED,
        {"ft": (1, None), "ft+l": (0, 2e-3), "attn": (15, 5e-3)}, _MEASURED,
    ),
    Preset(
        "GPT-2 medium", "gpt2", 24, 1024, 8, 3.0, _ROME_CODE,
        fine_tune={"ft+l": (0, 2e-3)}, fine_tune_source="ROME paper, E.1",
    ),
    Preset(
        "GPT-2 large", "gpt2", 36, 1280, 12, 4.0, _ROME_CODE,
        fine_tune={"ft+l": (0, 1e-3)}, fine_tune_source="ROME paper, E.1",
    ),
    Preset(
        "GPT-2 XL", "gpt2", 48, 1600, 17, 4.0, _ROME_CODE,
        range(13, 18), 20_000.0, 0.75, _MEMIT_CODE,
        {"ft": (1, None), "ft+l": (0, 5e-4), "attn": (33, 1e-3)}, "ROME paper, E.1 and I",
    ),
    Preset(
        "GPT-J 6B", "gptj", 28, 4096, 5, 4.0, _ROME_CODE,
        range(3, 9), 15_000.0, 0.75, _MEMIT_CODE,
        {"ft": (21, None), "ft+l": (0, 5e-5)}, "ROME paper, E.1",
    ),
    Preset(
        "GPT-NeoX 20B", "gpt_neox", 44, 6144, 15, 4.0, _MEMIT_CODE,
        range(6, 11), 15_000.0, 0.75, "MEMIT paper; its weight is not published, GPT-J's is used",
    ),
    Preset(
        "Llama 2 7B, Llama 3 8B", "llama", 32, 4096, 5, 4.0, _EASYEDIT,
        range(4, 9), 15_000.0, 4.0, _EASYEDIT,
    ),
    Preset("Mistral 7B", "mistral", 32, 4096, 5, 4.0, _EASYEDIT),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UltraEditPreset:
    """Where and how strongly UltraEdit edits one model.

    Attributes:
        model: the model that the values were found for.
        family: architecture, as in `factlab.families`.
        n_layers: of the model.
        d_model: of the model.
        layers: 0-based, for each projection of the MLP that is edited.
        source: where these are from.
        learning_rate: η.
    """

    model: str
    family: str
    n_layers: int
    d_model: int
    layers: Mapping[MlpPart, range]
    source: str
    learning_rate: float = 1e-6


_ULTRAEDIT_CODE = "UltraEdit code"

ULTRAEDIT_PRESETS: tuple[UltraEditPreset, ...] = (
    UltraEditPreset(
        "SmolLM2-135M", "llama", 30, 576,
        {"gate": range(27, 30), "up": range(27, 30)}, _MEASURED, 5e-4,
    ),
    UltraEditPreset(
        "Llama 3 8B", "llama", 32, 4096, {"gate": range(11, 16), "up": range(18, 25)},
        _ULTRAEDIT_CODE,
    ),
    UltraEditPreset("Mistral 7B", "mistral", 32, 4096, {"down": range(29, 31)}, _ULTRAEDIT_CODE),
    UltraEditPreset(
        "Qwen 2.5 7B", "qwen2", 28, 3584, {"gate": range(18, 27), "up": range(18, 27)},
        _ULTRAEDIT_CODE,
    ),
    UltraEditPreset("GPT-J 6B", "gptj", 28, 4096, {"down": range(18, 27)}, _ULTRAEDIT_CODE),
    UltraEditPreset("Phi-4", "phi3", 40, 5120, {"down": range(30, 39)}, _ULTRAEDIT_CODE),
)  # fmt: skip
