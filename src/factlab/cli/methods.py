"""`factlab methods`: the editing methods, and where they edit which model."""

from typing import TYPE_CHECKING, Any

import typer

from factlab.cli.registration import MODELS, NO_MODEL, command
from factlab.cli.session import Session
from factlab.cli.tables import table

if TYPE_CHECKING:
    from factlab.editing.configs import MethodConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        methods,
        "methods",
        group=MODELS,
        takes=NO_MODEL,
        examples=(
            "factlab methods",
            "factlab methods --json",
        ),
    )


def methods(session: Session) -> None:
    """List the editing methods and their presets by model."""
    from factlab.editing.methods import METHODS
    from factlab.editing.preset_table import PRESETS, ULTRAEDIT_PRESETS
    from factlab.editing.trained.configs import KINDS, TrainedEditConfig

    rows = [
        [m.name, m.about, "many" if m.writes_many else "one", "yes" if m.needs_subject else "no"]
        for m in METHODS.values()
    ]
    rows += [[f"{kind} *", config.about, "many", "no"] for kind, config in KINDS.items()]
    session.say(table(["method", "what it does", "facts per edit", "needs a subject"], rows))
    session.say("* trained for one model by 'factlab train', and given with --editor.")
    rows = []
    for preset in PRESETS:
        layers = preset.memit_layers
        tuned = [f"{name} {layer}" for name, (layer, _) in preset.fine_tune.items()]
        memit = f"{layers[0]}–{layers[-1]}, λ {preset.memit_weight:g}" if layers else "—"
        rows.append(
            [preset.model, f"{preset.rome_layer} ({preset.rome_source})",
             f"{memit} ({preset.memit_source})" if layers else "—", ", ".join(tuned) or "—"]
        )  # fmt: skip
    session.say(table(["model", "ROME layer", "MEMIT layers", "fine-tuning layers"], rows))
    session.say("Other models get their layers from causal traces (see 'factlab layers').")
    rows = [
        [p.model, ", ".join(f"{part} {i[0]}–{i[-1]}" for part, i in p.layers.items()),
         f"{p.learning_rate:g}", p.source]
        for p in ULTRAEDIT_PRESETS
    ]  # fmt: skip
    session.say(table(["model", "UltraEdit projections", "η", "source"], rows))
    session.emit(
        {
            "methods": [
                {"name": m.name, "about": m.about, "many": m.writes_many, "trained": False,
                 "needs_subject": m.needs_subject, **_abilities(m.config)}
                for m in METHODS.values()
            ] + [
                {"name": kind, "about": config.about, "many": True, "trained": True,
                 "needs_subject": False, **_abilities(TrainedEditConfig)}
                for kind, config in KINDS.items()
            ],
            "presets": [
                {"model": p.model, "family": p.family, "n_layers": p.n_layers,
                 "d_model": p.d_model, "rome_layer": p.rome_layer,
                 "memit_layers": list(p.memit_layers), "memit_weight": p.memit_weight,
                 "fine_tune": {name: list(values) for name, values in p.fine_tune.items()}}
                for p in PRESETS
            ],
            "ultraedit_presets": [
                {"model": p.model, "family": p.family, "n_layers": p.n_layers,
                 "d_model": p.d_model, "learning_rate": p.learning_rate,
                 "layers": {part: list(layers) for part, layers in p.layers.items()}}
                for p in ULTRAEDIT_PRESETS
            ],
        }
    )  # fmt: skip


def _abilities(config: "type[MethodConfig]") -> dict[str, Any]:
    return {
        "erases": config.can_erase,
        "looks_up": config.can_look_up,
        "layer_setting": config.layer_setting,
        "settings": config.model_json_schema()["properties"],
    }
