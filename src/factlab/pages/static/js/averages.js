"use strict";
/* Showing an average of traces: groups of tokens down, layers across. */

{
  const { el, number } = factlab;

  const within = (mean, halfWidth) => `${number(mean)}${halfWidth === null ? "" : ` ± ${number(halfWidth, 2)}`}`;

  /** @param {object} average  its document */
  factlab.averageView = function averageView(average) {
    const counts = Object.values(average.groups);
    const total = average.total_effect.mean;
    const unit = average.config.method === "gradient" ? "mean estimated effect" : "mean effect";
    const scales = factlab.scales(average.effects);
    const maps = Object.entries(average.effects).map(([kind, every]) => {
      // Groups that no fact has a traced token of are left out.
      const shown = average.labels.map((_, group) => group).filter((group) => every[group].some((value) => value !== null));
      const labels = shown.map((group) => average.labels[group]);
      const effects = shown.map((group) => every[group]);
      const best = factlab.peak(effects);
      const hint = (row, layer) => {
        const [group, effect] = [shown[row], effects[row][layer]];
        const where = `${labels[row]}, layer ${layer}: `;
        if (effect === null) return `${where}not traced`;
        const share = total > 0 ? `, ${Math.round((100 * Math.max(0, effect)) / total)} % of what is lost` : "";
        return `${where}${unit} ${within(effect, average.half_widths[kind][group][layer])}${share} (facts: ${counts[group]})`;
      };
      return factlab.heatmap({
        kind, labels, effects, scale: scales[kind], hint,
        title: factlab.mapTitle(average, kind),
        start: best || { row: 0, layer: 0 },
        summary: best ? `Largest ${unit} ${number(best.effect)} at ${labels[best.row]}, layer ${best.layer}.` : "",
        onchoose: null,
      });
    });
    return el("section.trace", { "aria-label": "Average" },
      el("p.lead", {},
        `Over ${average.n_facts} facts the answer has probability ${within(average.clean_prob.mean, average.clean_prob.half_width)}; `,
        `with the subject corrupted, ${within(average.corrupted_prob.mean, average.corrupted_prob.half_width)}.`),
      el("div.maps", {}, maps),
      el("p.hint", {}, "± is a 95 % interval. ", factlab.scalesInWords(average, scales)));
  };
}
