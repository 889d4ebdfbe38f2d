"use strict";
/* Showing what was computed earlier: reports of evaluations, traces, saved edits, tables with a picture. */

{
  const { el, table, number } = factlab;

  /**
   * Tables of evaluations side by side.
   * @param {object} made  what `GET /api/report` answers
   * @param {(score: string, heading: string) => void} [onscore]  makes headings of scores buttons
   */
  factlab.reportView = function reportView(made, onscore) {
    return el("div", {},
      el("p", { role: "status" }, `${made.done} of ${made.total} records are done.`),
      made.tables.map((one) => {
        const headings = one.header.map((heading, i) => {
          const score = one.scores[i];
          return score && onscore ? el("button.quiet", { type: "button", onclick: () => onscore(score, heading) }, heading) : heading;
        });
        const numeric = new Set(one.header.map((_, i) => i).slice(1));
        return el("div", {}, table(one.title, headings, one.rows, numeric), one.notes.map((note) => el("p.hint", {}, note)));
      }));
  };

  const written = (value) => (typeof value === "number" ? number(value) : Array.isArray(value) ? value.join(" × ") : String(value ?? "—"));

  /** Rows with names as a table. */
  factlab.rowsView = function rowsView(caption, rows) {
    if (!rows || !rows.length) return null;
    const heads = Object.keys(rows[0]);
    return table(caption, heads, rows.map((row) => heads.map((head) => written(row[head]))));
  };

  /** A document of any kind, as `GET /api/view` answers it. */
  factlab.resultView = function resultView(found) {
    if (found.kind === "trace") return factlab.traceView(found.trace, null);
    if (found.average) return factlab.averageView(found.average);
    if (found.kind === "evaluation") return factlab.reportView(found.report);
    if (found.kind === "edit") {
      return el("section", {},
        el("p.lead", {}, `${found.edit.method} for ${found.edit.base.name}`),
        table("Facts", ["Prompt", "True", "New"], found.edit.facts.map((fact) =>
          [fact.template.replace("{}", fact.subject), (fact.target_true || "—").trim(), (fact.target_new || "—").trim()])),
        factlab.rowsView("What is changed", found.changes));
    }
    return el("div", {},
      el("pre", { tabindex: 0, role: "region", "aria-label": "In words" }, found.about),
      found.picture ? el("img.picture", { src: `data:image/png;base64,${found.picture}`, alt: `Picture of this ${found.kind}; the table below has its numbers` }) : null,
      factlab.rowsView("Numbers", found.rows));
  };
}
