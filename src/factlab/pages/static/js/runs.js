"use strict";
/* The screen with runs and studies: tables as they grow, and the records behind a score. */

{
  const { el, table, number } = factlab;
  const LOOKS_EVERY_MS = 3000;
  const ROW_PX = 30;
  const SPARE_ROWS = 12;
  const query = (names) => names.map((name) => `run=${encodeURIComponent(name)}`).join("&");

  /** Begins a question; what it gives says, when the answer is there, whether no other was begun since. */
  function newest() {
    let last = 0;
    return () => {
      const mine = ++last;
      return () => mine === last;
    };
  }

  /** Thousands of rows, of which only those that can be seen are elements. */
  function longList(label, headings, rows, onchoose) {
    const body = el("div.rows");
    const place = el("div.long", { tabindex: 0, role: "region", "aria-label": label }, body);
    body.style.height = `${rows.length * ROW_PX}px`;
    let drawn = null;
    function draw() {
      const first = Math.max(0, Math.floor(place.scrollTop / ROW_PX) - SPARE_ROWS);
      const last = Math.min(rows.length, first + Math.ceil(place.clientHeight / ROW_PX) + 2 * SPARE_ROWS);
      if (drawn === `${first}-${last}`) return;
      drawn = `${first}-${last}`;
      body.replaceChildren(...rows.slice(first, last).map((row, i) => {
        const line = el("button.line", { type: "button", onclick: () => onchoose(row) }, row.cells.map((cell) => el("span", {}, cell)));
        line.style.top = `${(first + i) * ROW_PX}px`;
        return line;
      }));
    }
    place.addEventListener("scroll", draw);
    new ResizeObserver(draw).observe(place);
    return el("div", {}, el("div.line.head", { "aria-hidden": "true" }, headings.map((heading) => el("span", {}, heading))), place);
  }

  factlab.screens.runs = {
    name: "Runs",
    show(place, state, app) {
      const chosen = new Set((state.runs || "").split("|").filter(Boolean));
      const list = el("div", {}, el("p.hint", {}, "Looking …"));
      const told = el("p.error", { role: "alert", hidden: true });
      const report = el("div");
      const records = el("div");
      const record = el("div", { "aria-live": "polite" });
      let timer = null;
      const beginReport = newest();
      const beginRecords = newest();
      const beginRecord = newest();

      const fail = (error) => {
        told.hidden = false;
        told.textContent = error.message;
      };

      function forget() {
        clearTimeout(timer);
        for (const begin of [beginReport, beginRecords, beginRecord]) begin();
        records.replaceChildren();
        record.replaceChildren();
      }

      function compare() {
        app.remember("runs", { runs: [...chosen].join("|") || undefined });
        forget();
        watch();
      }

      function offer(folders) {
        if (!folders.length) {
          list.replaceChildren(el("p.hint", {}, "There is nothing to look at. Start the workbench with --runs FOLDER to see evaluations, sweeps, studies and traces of that folder."));
          return;
        }
        list.replaceChildren(el("ul.found", {}, folders.map((one) => {
          if (one.kind !== "evaluation") return el("li", {}, el("a", { href: app.link("runs", { view: one.name }) }, `${one.kind}: ${one.path}`));
          const box = factlab.check(one.path, { checked: chosen.has(one.name), onchange: (event) => {
            if (event.target.checked) chosen.add(one.name);
            else chosen.delete(one.name);
            compare();
          } });
          return el("li", {}, box);
        })));
      }

      async function watch() {
        clearTimeout(timer);
        const isWanted = beginReport();
        if (!chosen.size) {
          report.replaceChildren();
          return;
        }
        try {
          const names = [...chosen];
          const made = await factlab.ask("GET", `api/report?${query(names)}`);
          if (!isWanted()) return;
          told.hidden = true;
          report.replaceChildren(
            factlab.reportView(made, (score, heading) => showRecords(names, score, heading)),
            el("p.hint", {}, "Choose a score to see the records behind it."));
          if (made.done < made.total) timer = setTimeout(watch, LOOKS_EVERY_MS);
        } catch (error) {
          if (!isWanted()) return;
          fail(error);
          if (error.gone) timer = setTimeout(watch, LOOKS_EVERY_MS);
        }
      }

      async function showRecords(names, score, heading) {
        const isWanted = beginRecords();
        try {
          const found = await factlab.ask("GET", `api/records?${query(names)}&score=${encodeURIComponent(score)}`);
          if (!isWanted()) return;
          const first = found.labels[0];
          const worth = (one) => one.values[first] ?? Infinity;
          const rows = found.records.sort((a, b) => worth(a) - worth(b)).map((one) => ({
            case: one.case_id,
            cells: [`${one.prompt} … ${(one.target_new || "").trim()}`, ...found.labels.map((label) => number(one.values[label]))],
          }));
          records.replaceChildren(
            el("h2", {}, `${heading} of every record, lowest first`),
            longList(`${heading} of every record`, ["Record", ...found.labels], rows, (row) => showRecord(names, row.case)));
        } catch (error) {
          if (isWanted()) fail(error);
        }
      }

      async function showRecord(names, number_) {
        const isWanted = beginRecord();
        try {
          const found = await factlab.ask("GET", `api/records/${number_}?${query(names)}`);
          if (!isWanted()) return;
          record.replaceChildren(...found.map((one) => el("section.panel", {},
            el("h2", {}, one.statement),
            one.texts.length ? table("What was written", ["Model", "Text"], one.texts) : null,
            one.answers.length ? table("Answers", one.answers[0], one.answers.slice(1)) : null,
            one.texts.length || one.answers.length ? null : el("p.hint", {}, "This run kept no texts."))));
          record.scrollIntoView({ block: "nearest" });
        } catch (error) {
          if (isWanted()) fail(error);
        }
      }

      async function view(name) {
        const isWanted = beginReport();
        try {
          const found = await factlab.ask("GET", `api/view?name=${encodeURIComponent(name)}`);
          if (!isWanted()) return;
          told.hidden = true;
          report.replaceChildren(factlab.resultView(found));
          if (found.missing) timer = setTimeout(() => view(name), LOOKS_EVERY_MS);
        } catch (error) {
          if (isWanted()) fail(error);
        }
      }

      place.replaceChildren(el("section.panel", {}, el("h1", {}, "Runs, studies and traces"), list, told), report, records, record);
      factlab.ask("GET", "api/folders").then(offer).catch(fail);
      if (state.view) view(state.view);
      else watch();
      return forget;
    },
  };
}
