"""Settings: what all of them have in common."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from public_names import public_names
from pydantic import PositiveInt

import factlab as fl
from factlab.config import Config, with_none
from factlab.errors import InvalidRequestError


def _all_configs() -> list[type]:
    return [kind for name, kind in public_names().items() if name.endswith("Config")]


@pytest.mark.parametrize("kind", _all_configs(), ids=lambda kind: kind.__name__)
def test_every_config_says_what_it_does_not_know(kind):
    with pytest.raises(InvalidRequestError, match=f"{kind.__name__} has no setting 'sede'"):
        kind(sede=1)


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(InvalidRequestError, match="Did you mean 'layer'"):
        fl.editing.RomeConfig(layr=3)


def test_a_mistyped_name_inside_another_config_is_told_with_its_path():
    with pytest.raises(
        InvalidRequestError,
        match=r"ValueConfig has no setting 'value.stpes'\. Did you mean 'steps'",
    ):
        fl.editing.RomeConfig(value={"stpes": 3})


def test_a_mistyped_name_in_one_of_several_kinds_is_looked_up_in_that_kind():
    with pytest.raises(InvalidRequestError, match=r"UniformNoise .*Did you mean 'sigmas'"):
        fl.tracing.TraceConfig(corruption={"type": "uniform", "sigma": 3})


def test_a_value_that_is_not_allowed_is_told_with_the_reason():
    with pytest.raises(
        InvalidRequestError, match=r"'value.steps' of RomeConfig cannot be 0: .*than 0"
    ):
        fl.editing.RomeConfig(value={"steps": 0})


def test_settings_that_do_not_go_together_say_why():
    with pytest.raises(InvalidRequestError, match="kinds must not repeat"):
        fl.tracing.TraceConfig(kinds=("mlp", "mlp"))


class _Inner(Config):
    width: PositiveInt | None = 1
    name: str = ""


class _Outer(Config):
    inner: _Inner = _Inner()
    limit: int | None = 3


def test_the_word_none_is_none_where_none_is_allowed():
    read = with_none(_Outer, {"inner": {"width": "None", "name": "none"}, "limit": "none"})
    assert _Outer(**read) == _Outer(inner=_Inner(width=None, name="none"), limit=None)


def test_the_word_none_in_a_setting_of_several_kinds():
    written = {"corruption": {"type": "uniform", "level": "none"}}
    read = fl.tracing.TraceConfig(**with_none(fl.tracing.TraceConfig, written))
    assert read.corruption == fl.tracing.UniformNoise(level=None)


def test_the_word_none_stays_where_none_is_not_allowed():
    with pytest.raises(InvalidRequestError, match="'seed' of StatsConfig cannot be 'none'"):
        fl.stats.StatsConfig(**with_none(fl.stats.StatsConfig, {"seed": "none"}))


def test_configs_need_no_pytorch():
    code = (
        "import sys, factlab as fl;"
        "spaces = (fl.editing, fl.evaluation, fl.neurons, fl.stats, fl.tracing);"
        "[getattr(s, name) for s in spaces for name in s.__all__ if name.endswith('Config')];"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("page", "kind"), [("settings.md", fl.editing.RomeConfig), ("neurons.md", fl.editing.KnConfig)]
)
def test_the_published_settings_of_the_docs_are_the_published_ones(page, kind):
    text = (Path(__file__).parents[2] / "docs" / "howto" / page).read_text(encoding="utf-8")
    values = tomllib.loads(text.split("```toml\n", 1)[1].split("```", 1)[0])
    assert kind(**with_none(kind, values)) == kind.published()
