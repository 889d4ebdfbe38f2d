"use strict";
/* Colours of effects: those of the pictures that `factlab trace --out` draws. */

{
  const COLOURS = {
    block: ["#b35806", "#fee0b6", "#ffffff", "#bcbddc", "#54278f"],
    mlp: ["#8e0152", "#f1b6da", "#ffffff", "#a1d99b", "#00682a"],
    attn: ["#08519c", "#9ecae1", "#ffffff", "#fcae91", "#99000d"],
  };
  const ALIKE = { mlp_severed: "block", attn_severed: "block" };
  const NOTICEABLE = 0.02;

  const family = (kind) => ALIKE[kind] || kind;
  const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

  /** The smallest (0 or negative) and the largest effect with a shade, of each kind. */
  factlab.scales = function scales(effects) {
    const made = {};
    for (const kind of Object.keys(effects)) {
      const alike = Object.keys(effects).filter((other) => family(other) === family(kind));
      const values = alike.flatMap((one) => effects[one].flat()).filter((value) => value !== null);
      const high = Math.max(1e-6, ...values);
      const low = Math.min(0, ...values);
      made[kind] = { low: low < -NOTICEABLE * high ? low : 0, high };
    }
    return made;
  };

  /** The colour of a value, as CSS takes it. */
  factlab.colour = function colour(kind, value, scale) {
    const reach = Math.max(scale.high, -scale.low);
    const share = Math.max(-1, Math.min(1, Math.max(value, scale.low) / reach));
    const stops = COLOURS[family(kind)];
    const at = (share + 1) * 2;
    const first = Math.min(3, Math.floor(at));
    const [a, b] = [channels(stops[first]), channels(stops[first + 1])];
    const mixed = a.map((channel, i) => Math.round(channel + (b[i] - channel) * (at - first)));
    return `rgb(${mixed.join(",")})`;
  };
}
