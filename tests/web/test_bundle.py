"""Pages that need no server: what is in them, and that they ask nobody for anything."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from workbench import PROMPT, SUBJECT, evaluated

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError
from factlab.web.bundle import write_bundle
from factlab.web.results import result_document

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture
def saved(make_model, tmp_path):
    """A trace, an edit and an evaluation."""
    lm = make_model("gpt2")
    trace = fl.causal_trace(lm, PROMPT, SUBJECT, config=fl.tracing.TraceConfig(samples=2))
    trace.save(tmp_path / "needle.safetensors")
    config = fl.editing.FineTuneConfig(layer=1, steps=2)
    fact = fl.Fact("{} says", EVIL, "Rome")
    fl.editing.fine_tune(lm, [fact], "ft", config).save(tmp_path / "edit")
    evaluated(lm, tmp_path / "run")
    return [tmp_path / name for name in ("needle.safetensors", "edit", "run")]


def test_a_page_works_from_a_file(saved, window, tmp_path):
    page = window.page
    page.context.set_offline(True)
    page.goto(write_bundle(saved, tmp_path / "page").as_uri())
    expect(page.locator("figure.map")).to_have_count(3)
    expect(page.get_by_role("region", name="Facts")).to_contain_text(EVIL)
    expect(page.get_by_text("3 of 3 records are done.")).to_be_visible()
    canvas = page.locator("figure.map canvas").first
    canvas.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".readout").first).to_contain_text(re.compile("layer [0-2]: p "))
    page.locator("#theme").click()
    found = Axe().run(page).response["violations"]
    assert not [one for one in found if one["impact"] in {"serious", "critical"}]


def test_a_page_has_the_documents_and_nothing_from_elsewhere(saved, tmp_path):
    page = write_bundle(saved, tmp_path / "page")
    html = page.read_text()
    data = re.search(r'id="documents">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data) == json.loads(json.dumps([result_document(path) for path in saved]))
    assert EVIL not in html
    assert "src=" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert "fetch(" not in html
    assert "static/" not in html


def test_what_cannot_be_shown(tmp_path):
    with pytest.raises(InvalidRequestError, match="nothing to show"):
        write_bundle([], tmp_path / "page")
    with pytest.raises(StorageError, match=r"There is no file or folder .*gone"):
        write_bundle([tmp_path / "gone"], tmp_path / "page")
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        StorageError, match="no trace, edit, evaluation, sweep, probes, study or scores"
    ):
        write_bundle([tmp_path / "notes"], tmp_path / "page")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StorageError, match="no trace"):
        write_bundle([tmp_path / "bad.safetensors"], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_command_writes_a_page(saved, run, tmp_path):
    code, out, _ = run("view", saved[0], "--bundle", tmp_path / "page", "--json")
    assert (code, json.loads(out)) == (0, {"page": str(tmp_path / "page" / "index.html")})
    assert "needle.safetensors" in (tmp_path / "page" / "index.html").read_text()
