"use strict";
/* Showing a trace, wherever it comes from: just computed, saved, or inlined into a page. */

{
  const { el, number } = factlab;
  const NAMES = {
    block: "Hidden state",
    mlp: "MLP",
    attn: "Attention",
    mlp_severed: "Hidden state, MLP severed",
    attn_severed: "Hidden state, attention severed",
  };
  const WINDOWED = new Set(["mlp", "attn"]);

  /** The largest effect of a kind: {row, layer, effect}; null if nothing was traced yet. */
  factlab.peak = function peak(effects) {
    let best = null;
    effects.forEach((values, row) => values.forEach((effect, layer) => {
      if (effect !== null && (!best || effect > best.effect)) best = { row, layer, effect };
    }));
    return best;
  };

  /** What a kind of state is called in a heading. */
  factlab.kindTitle = function kindTitle(trace, kind) {
    const part = (trace.part_names || {})[kind];
    const name = part ? part[0].toUpperCase() + part.slice(1) : NAMES[kind] || kind;
    const window = trace.config.window;
    return WINDOWED.has(kind) && window > 1 ? `${name}, ${window} layers together` : name;
  };

  /** Which effect has the full colour. */
  factlab.scaleHint = (trace, scales) => ["Grey: not traced.", ...Object.entries(scales).map(([kind, scale]) =>
    `${factlab.kindTitle(trace, kind)}: full colour at ${number(Math.max(scale.high, -scale.low), 2)}.`)].join(" ");

  /**
   * @param {object} trace  its document
   * @param {((kind, row, layer) => void) | null} onchoose
   */
  factlab.traceView = function traceView(trace, onchoose) {
    const total = trace.clean_prob - trace.corrupted_prob;
    const unit = trace.config.method === "gradient" ? "estimated effect" : "effect";
    const scales = factlab.scales(trace.effects);
    const labels = trace.labels;
    const maps = Object.entries(trace.effects).map(([kind, effects]) => {
      const best = factlab.peak(effects);
      const hint = (row, layer) => {
        const effect = effects[row][layer];
        const where = `“${labels[row]}”, layer ${layer}: `;
        if (effect === null) return `${where}not traced`;
        const share = total > 0 ? `, ${Math.round((100 * Math.max(0, effect)) / total)} % restored` : "";
        return `${where}p ${number(trace.corrupted_prob + effect)}, ${unit} ${number(effect)}${share}`;
      };
      return factlab.heatmap({
        kind, labels, effects, scale: scales[kind], hint,
        title: factlab.kindTitle(trace, kind),
        start: best || { row: trace.subject_span[1] - 1, layer: 0 },
        summary: best ? `Largest ${unit} ${number(best.effect)} at “${labels[best.row]}”, layer ${best.layer}.` : "Nothing traced yet.",
        onchoose: onchoose && ((row, layer) => onchoose(kind, row, layer)),
      });
    });
    const answer = factlab.visible(trace.answer);
    return el("section.trace", { "aria-label": "Trace" },
      el("p.lead", {},
        "The model answers ", el("b", {}, `“${answer}”`), ` with probability ${number(trace.clean_prob)}; `,
        `with the subject corrupted, ${number(trace.corrupted_prob)}.`),
      (trace.notes || []).map((note) => el("p.note", {}, note)),
      el("div.maps", {}, maps),
      el("p.hint", {}, `Tokens of the subject have a star. ${factlab.scaleHint(trace, scales)}`));
  };
}
