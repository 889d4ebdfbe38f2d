"""Every screen in a real browser: clicked through, without an error, readable by everybody."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from workbench import EDIT, FACT, PROMPT, SUBJECT, TRACE, evaluated, workbench

import factlab as fl

expect.set_options(timeout=120_000)


@pytest.fixture
def bench(make_model, tmp_path):
    with workbench(tmp_path / "bench", make_model("gpt2")) as bench:
        yield bench


def check_access(page) -> None:
    """No serious finding of axe; nothing that has to be scrolled sideways."""
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert not serious, json.dumps(serious, indent=1)[:3000]
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def saved(bench, name: str = "needle") -> str:
    job = bench.begin(EDIT)
    assert bench.ended(job)["state"] == "done"
    assert bench.ask("POST", "/api/edits", {"job": job, "name": name})[0] == 201
    return job


def test_a_fact_is_traced(bench, window):
    page = window.page
    page.goto(bench.url)
    expect(page.locator("#model")).to_contain_text("tiny-gpt2, 3 layers")
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("Subject").fill(SUBJECT)
    expect(page.locator(".preview mark")).to_have_text(SUBJECT)
    page.get_by_text("How to trace").click()
    page.get_by_label("Noise samples").fill("2")
    page.get_by_role("button", name="Trace", exact=True).click()
    expect(page.get_by_text("Done in")).to_be_visible()
    maps = page.locator("figure.map")
    expect(maps).to_have_count(3)
    check_access(page)

    trace = fl.causal_trace(bench.lm, PROMPT, SUBJECT, config=fl.tracing.TraceConfig(samples=2))
    position, layer, effect = trace.peak("mlp")
    canvas = maps.nth(1).locator("canvas")
    assert f"layer {layer}" in canvas.get_attribute("aria-label")
    canvas.focus()
    page.keyboard.press("ArrowUp")  # begins at the largest effect
    readout = maps.nth(1).locator(".readout")
    expect(readout).to_contain_text(f"“{trace.token_labels[position]}”, layer {layer}: p ")
    shown = float(re.search(r"effect (\S+?),", readout.inner_text())[1])
    assert shown == pytest.approx(effect, rel=0.01)
    page.keyboard.press("Enter")
    expect(page.locator(".tokens li")).to_have_count(5)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 10)
    expect(readout).to_contain_text("layer 2")

    address = page.url
    page.get_by_role("button", name=re.compile("Edit at layer")).click()
    expect(page.get_by_label("Sentence")).to_have_value(PROMPT.replace(SUBJECT, "{}"))
    expect(page.get_by_label("Layer")).to_have_value(str(layer))
    expect(page.get_by_text(f"Layer {layer}: the cell that was chosen")).to_be_visible()
    page.goto("about:blank")
    page.goto(address)  # a link gives the same picture
    expect(page.locator("figure.map")).to_have_count(3)
    expect(page.get_by_label("Prompt")).to_have_value(PROMPT)


def test_the_subject_is_marked_by_selecting_it(bench, wide_window):
    page = wide_window.page
    page.goto(bench.url)
    page.get_by_label("Prompt").fill("Rome is in the land of Italy")
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_label("Subject")).to_have_value("Rome")
    expect(page.locator(".preview mark")).to_have_text("Rome")


def test_a_fact_is_edited_and_saved(bench, window):
    page = window.page
    page.goto(f"{bench.url}/#/edit")
    page.get_by_label("Begin with").select_option(index=2)
    expect(page.get_by_label("New object")).not_to_have_value("")
    page.get_by_label("Sentence").fill(FACT["template"])
    page.get_by_label("Subject").fill(SUBJECT)
    page.get_by_label("New object").fill("Rome")
    page.get_by_label("Method").select_option("ft")
    expect(page.get_by_text("Without a layer: traces of well-known facts")).to_be_visible()
    page.get_by_label("Layer").fill("1")
    expect(page.get_by_text("Layer 1: your choice.")).to_be_visible()
    page.get_by_label("Paraphrases").fill("To see it, go to\nIt stands in")
    page.get_by_label("Neighbours").fill("The Louvre is in")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.get_by_text("Done in")).to_be_visible()
    rows = page.get_by_role("region", name="Before and after").locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(1)).to_contain_text("Paraphrase")
    expect(page.get_by_role("region", name="What is changed")).to_be_visible()
    check_access(page)
    page.get_by_label("Name of the edit").fill("in Rome")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("There is a saved edit 'in Rome'.")).to_be_visible()
    window.forgive()
    assert bench.worker.shelf.names() == ["in Rome"]


def test_edits_are_stacked_asked_and_taken_off(bench, window):
    saved(bench, "first")
    before = {name: weight.clone() for name, weight in bench.lm.model.named_parameters()}
    page = window.page
    page.goto(f"{bench.url}/#/stack")
    page.get_by_role("checkbox", name="first").check()
    expect(page.locator("#model")).to_contain_text("with first")
    page.get_by_label("Prompts").fill(f"{PROMPT}\nThe Louvre is in")
    page.get_by_label("Tokens to write").fill("4")
    page.get_by_role("button", name="Ask with").click()
    table = page.get_by_role("region", name="Answers")
    expect(table.locator("th")).to_have_text(["Prompt", "plain model", "first"])
    expect(table.locator("tbody tr")).to_have_count(2)
    check_access(page)
    page.get_by_role("button", name="Take all off").click()
    expect(page.locator("#model")).not_to_contain_text("with first")
    assert all((w == before[name]).all() for name, w in bench.lm.model.named_parameters())


def test_the_edits_that_are_on_are_exported(bench, wide_window, tmp_path):
    saved(bench, "first")
    page = wide_window.page
    page.goto(f"{bench.url}/#/stack")
    page.get_by_text("Export", exact=True).first.click()
    export = page.get_by_role("button", name="Export", exact=True)
    export.click()
    expect(page.get_by_text("There is nothing to export. Choose a saved edit.")).to_be_visible()
    page.get_by_role("checkbox", name="first").check()
    expect(page.locator("#model")).to_contain_text("with first")
    export.click()
    expect(page.get_by_text("Written to")).to_be_visible()
    check_access(page)
    adapter = fl.Edit.from_peft(tmp_path / "bench" / "exports" / "first peft", bench.lm)
    assert [one.weight_name for one in adapter.updates] == [
        one.weight_name for one in bench.worker.shelf.load("first").updates
    ]
    export.click()
    expect(page.locator(".status .error").filter(has_text="first peft")).to_be_visible()
    page.get_by_label("As").select_option("checkpoint")
    export.click()
    expect(page.locator("code").filter(has_text="first checkpoint")).to_be_visible()
    assert (tmp_path / "bench" / "exports" / "first checkpoint" / "model.safetensors").is_file()
    wide_window.forgive()


def test_what_was_asked_for_can_be_found_again(bench, window):
    bench.done(TRACE)
    job = saved(bench)
    page = window.page
    page.goto(f"{bench.url}/#/history")
    table = page.get_by_role("region", name="Jobs")
    expect(table.locator("tbody tr")).to_have_count(2)
    check_access(page)
    table.get_by_role("link", name=re.compile("→ Rome")).click()
    expect(page.get_by_role("region", name="Before and after")).to_be_visible()
    assert job in page.url


def test_runs_are_compared_down_to_a_record(bench, window, tmp_path):
    for steps in (1, 3):
        evaluated(bench.lm, tmp_path / "runs" / f"ft-{steps}", steps)
    page = window.page
    page.goto(f"{bench.url}/#/runs")
    page.get_by_role("checkbox", name=re.compile("ft-1")).check()
    page.get_by_role("checkbox", name=re.compile("ft-3")).check()
    expect(page.get_by_text("6 of 6 records are done.")).to_be_visible()
    expect(page.locator("main table tbody tr")).to_have_count(3)
    check_access(page)
    page.get_by_role("button", name="ES", exact=True).click()
    lines = page.get_by_role("region", name=re.compile("of every record")).locator("button")
    expect(lines).to_have_count(3)
    lines.first.click()
    written = page.get_by_role("region", name="What was written").locator("tbody tr")
    expect(written).to_have_count(3)  # of the unedited model, and of each run's
    check_access(page)


def test_a_run_is_watched_while_it_grows(bench, wide_window, tmp_path):
    folder = tmp_path / "runs" / "ft"
    stop = iter([False, True])
    records = fl.load_records("builtin", limit=3)
    arguments = {
        "config": fl.editing.FineTuneConfig(layer=1, steps=1), "batch_size": 1,
        "measure": fl.evaluation.MeasureConfig(n_generated=0), "resume": True,
    }  # fmt: skip
    fl.evaluate(bench.lm, records, "ft", folder, should_stop=lambda: next(stop, True), **arguments)
    page = wide_window.page
    page.goto(f"{bench.url}/#/runs?runs=0/ft")
    expect(page.get_by_text(re.compile("[0-2] of 3 records are done."))).to_be_visible()
    fl.evaluate(bench.lm, records, "ft", folder, **arguments)
    expect(page.get_by_text("3 of 3 records are done.")).to_be_visible()


def test_a_saved_trace_is_looked_at(bench, wide_window, tmp_path):
    (tmp_path / "runs").mkdir()
    trace = fl.causal_trace(bench.lm, PROMPT, SUBJECT, config=fl.tracing.TraceConfig(samples=2))
    trace.save(tmp_path / "runs" / "needle.safetensors")
    page = wide_window.page
    page.goto(f"{bench.url}/#/runs")
    page.get_by_role("link", name=re.compile("needle")).click()
    expect(page.locator("figure.map")).to_have_count(3)
    check_access(page)


def test_an_average_is_looked_at_while_it_grows(bench, window, tmp_path):
    folder = tmp_path / "runs" / "average"
    facts = [fl.Fact("{} is in", name) for name in ("The Louvre", "Big Ben", "Rome")]
    config = fl.tracing.TraceConfig(samples=2)
    fl.average_trace(bench.lm, facts, config, folder, shard=fl.Shard(1, 2))
    page = window.page
    page.goto(f"{bench.url}/#/runs")
    page.get_by_role("link", name=re.compile("average")).click()
    expect(page.get_by_text("One more fact is not traced yet.")).to_be_visible()
    average = fl.average_trace(bench.lm, facts, config, folder, shard=fl.Shard(2, 2))
    expect(page.get_by_text("3 facts of tiny-gpt2")).to_be_visible()
    expect(page.locator("figure.map")).to_have_count(3)
    check_access(page)
    hidden = page.locator("figure.map").nth(0)
    hidden.locator("canvas").focus()
    page.keyboard.press("ArrowUp")  # begins at the largest effect
    rows = [row for row in average.rows() if row["kind"] == "block"]
    best = max(rows, key=lambda row: row["effect"])
    expect(hidden.locator(".readout")).to_contain_text(f"{best['group']}, layer {best['layer']}")
    shown = re.search(r"mean effect (\S+) ±", hidden.locator(".readout").inner_text())
    assert float(shown[1]) == pytest.approx(best["effect"], rel=0.01)


def test_text_of_a_model_is_never_html(bench, wide_window, monkeypatch):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    monkeypatch.setattr(
        "factlab.models.language_model.LanguageModel.generate_batch",
        lambda self, prompts, **_: [evil] * len(prompts),
    )
    page = wide_window.page
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    page.goto(f"{bench.url}/#/stack")
    page.get_by_label("Prompts").fill(evil)
    page.get_by_role("button", name="Ask with").click()
    expect(page.get_by_role("region", name="Answers").locator("tbody td")).to_have_text(
        [evil, evil]
    )
    assert not dialogs


def test_what_is_wrong_is_said(bench, window):
    page = window.page
    page.goto(bench.url)
    page.get_by_label("Subject").fill("Nobody")
    page.get_by_role("button", name="Trace", exact=True).click()
    expect(page.locator(".status .error")).to_contain_text("Nobody")
    page.get_by_label("Prompt").fill(f"{SUBJECT} " + "is " * 2000)
    page.get_by_label("Subject").fill(SUBJECT)
    page.get_by_role("button", name="Trace", exact=True).click()
    expect(page.locator(".status .error")).to_contain_text("token")
    check_access(page)
    window.forgive()


def test_a_server_that_ended_is_noticed_and_met_again(make_model, tmp_path, wide_window):
    lm, page = make_model("gpt2"), wide_window.page
    with workbench(tmp_path / "bench", lm) as bench:
        page.goto(f"{bench.url}/#/history")
        expect(page.get_by_text("Nothing yet.")).to_be_visible()
    expect(page.locator("main .error")).to_contain_text("Is it still running?")
    port = int(bench.url.rpartition(":")[2])
    with workbench(tmp_path / "bench", lm, port=port):
        expect(page.get_by_text("Nothing yet.")).to_be_visible()
        wide_window.forgive()


def test_light_and_dark_are_a_choice_that_is_kept(bench, window):
    page = window.page
    page.goto(bench.url)
    was = page.locator("html").get_attribute("data-theme")
    page.locator("#theme").click()
    now = page.locator("html").get_attribute("data-theme")
    assert {was, now} == {"dark", "light"}
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", now)
    check_access(page)
