"""How quick the page of the workbench is in a real browser.

    python benchmarks/workbench.py [--chromium /usr/bin/chromium]

On a warm server: the time until the first screen can be used; how long a page takes to answer a
move of the mouse on maps of 48 tokens and 40 layers, drawing included; and how many frames a second
there are while a thousand records are scrolled. A frame is 16.7 ms at 60 a second.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright

import factlab as fl
from factlab.facts import TokenSpan
from factlab.tracing.configs import TraceConfig
from factlab.tracing.result import CausalTrace

N_TOKENS, N_LAYERS, N_RECORDS = 48, 40, 1000

MOVES = """async () => {
  const canvas = document.querySelectorAll("figure.map canvas")[1];
  const box = canvas.getBoundingClientRect();
  const told = canvas.parentElement.querySelector(".readout");
  const took = [];
  for (let i = 0; i < 200; i += 1) {
    const x = box.left + 140 + ((i * 37) % (box.width - 150));
    const y = box.top + 10 + ((i * 53) % (box.height - 60));
    await new Promise(requestAnimationFrame);
    const began = performance.now();
    canvas.dispatchEvent(new MouseEvent("mousemove", { clientX: x, clientY: y, bubbles: true }));
    told.getBoundingClientRect();
    took.push(performance.now() - began);
  }
  return took;
}"""
SCROLLS = """async () => {
  const place = document.querySelector(".long");
  const began = performance.now();
  let frames = 0;
  while (performance.now() - began < 2000) {
    place.scrollTop += 120;
    await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return frames / 2;
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How quick the page of the workbench is.")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        large_trace().save(place / "runs" / "large.safetensors")
        many_records(place / "runs" / "many")
        server, url = served(place)
        try:
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path=given.chromium, args=["--no-sandbox"]
                )
                measure(chromium.new_page(viewport={"width": 1280, "height": 900}), url)
        finally:
            server.terminate()
            server.wait()


def measure(page: Page, url: str) -> None:
    """Open the screens and print what they take."""
    page.set_default_timeout(120_000)
    page.goto(url)
    page.get_by_text("layers", exact=False).first.wait_for()
    seconds: list[float] = []
    for _ in range(5):
        page.goto("about:blank")
        began = time.perf_counter()
        page.goto(url)
        page.get_by_role("button", name="Trace", exact=True).wait_for()
        page.locator("#model", has_text="layers").wait_for()
        seconds.append(time.perf_counter() - began)
    print(f"first screen, server warm: {statistics.median(seconds):.2f} s (median of 5)")
    page.goto(f"{url}#/runs?view=0/large.safetensors")
    page.locator("figure.map").nth(2).wait_for()
    page.wait_for_timeout(500)
    moves = sorted(page.evaluate(MOVES))
    print(
        f"a move over {N_TOKENS} x {N_LAYERS} cells: {statistics.median(moves):.1f} ms, "
        f"95 of 100 within {moves[int(0.95 * len(moves))]:.1f} ms"
    )
    page.goto(f"{url}#/runs?runs=0/many")
    page.reload()
    page.get_by_role("button", name="ES", exact=True).click()
    page.locator(".long button").first.wait_for()
    print(f"scrolling {N_RECORDS} records: {page.evaluate(SCROLLS):.0f} frames a second")


def large_trace() -> CausalTrace:
    """A trace of many tokens and layers, of made-up effects."""
    torch.manual_seed(0)
    kinds = ("block", "mlp", "attn")
    return CausalTrace(
        prompt=" token" * N_TOKENS, tokens=(" token",) * N_TOKENS, subject_span=TokenSpan(4, 9),
        answer=" here", clean_prob=0.9, corrupted_prob=0.1, noise_level=0.1,
        effects={kind: 0.4 * torch.randn(N_TOKENS, N_LAYERS) for kind in kinds},
        config=TraceConfig(kinds=kinds, window=10), model_name="made up", fingerprint="0" * 64,
    )  # fmt: skip


def many_records(folder: Path) -> None:
    """An evaluation of many records on a tiny model."""
    lm = fl.models.tiny_model("gpt2")
    records = fl.load_records("builtin", limit=N_RECORDS)
    config = fl.editing.FineTuneConfig(layer=1, steps=1)
    measure = fl.evaluation.MeasureConfig(n_generated=0)
    fl.evaluate(lm, records, "ft", folder, config, measure=measure)


def served(place: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """A server on a tiny model, and its address."""
    command = [
        sys.executable, "-m", "factlab", "serve", "--model", "tiny:gpt2", "--no-browser", "--json",
        "--port", "0", "--folder", place / "bench", "--runs", place / "runs",
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
    if server.stdout is None:
        raise RuntimeError("the server has no output")
    return server, json.loads(server.stdout.readline())["url"]


if __name__ == "__main__":
    main()
