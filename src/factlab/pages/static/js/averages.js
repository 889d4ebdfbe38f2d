"use strict";
/* Showing the average of many traces: groups of tokens down, layers across. */

{
  const { el, number } = factlab;

  /** @param {object} average  its document */
  factlab.averageView = function averageView(average) {
    const scales = factlab.scales(average.effects);
    const counts = average.labels.map((label) => average.groups[label]);
    const unit = average.config.method === "gradient" ? "estimated effect" : "effect";
    const share = (one) => `${number(one.mean)}${one.half_width === null ? "" : ` ± ${number(one.half_width, 2)}`}`;
    const maps = Object.entries(average.effects).map(([kind, effects]) => {
      const best = factlab.peak(effects);
      const told = (row, layer) => {
        const width = average.half_widths[kind][row][layer];
        return `${number(effects[row][layer])}${width === null ? "" : ` ± ${number(width, 2)}`}`;
      };
      return factlab.heatmap({
        kind, labels: average.labels, effects, scale: scales[kind],
        title: factlab.kindTitle(average, kind),
        hint: (row, layer) => `${average.labels[row]}, layer ${layer}: ${
          effects[row][layer] === null ? "not traced" : `mean ${unit} ${told(row, layer)} of ${counts[row]} facts`}`,
        start: best || { row: 2, layer: 0 },
        summary: best ? `Largest mean ${unit} ${told(best.row, best.layer)}, ${average.labels[best.row]}, layer ${best.layer}.` : "Nothing traced yet.",
      });
    });
    return el("section.trace", { "aria-label": "Average of traces" },
      el("p.lead", {},
        `${average.n_facts} facts of ${average.model_name}: the answer has probability ${share(average.clean_prob)}; `,
        `with the subject corrupted, ${share(average.corrupted_prob)}.`),
      average.n_missing ? el("p.note", {}, average.n_missing === 1 ? "One more fact is not traced yet." : `${average.n_missing} more facts are not traced yet.`) : null,
      el("div.maps", {}, maps),
      el("p.hint", {},
        average.pooling === "tokens" ? "Every token counts once. " : "Every fact counts once. ",
        "± is half of a 95 % interval over facts. ", factlab.scaleHint(average, scales)));
  };
}
