"use strict";
/* Making elements. Text is always text: nothing that a model wrote is ever read as HTML. */

const factlab = { screens: {} };

/**
 * An element.
 * @param {string} tag  its name, with classes behind dots: "p.note"
 * @param {object} given  attributes; `on…` are listeners, `value`, `checked`, `disabled` properties
 * @param {...(Node|string|null)} children
 */
factlab.el = function el(tag, given = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (["value", "checked", "disabled", "hidden"].includes(key)) made[key] = value;
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
};

let numbered = 0;

/** A labelled field of a form. */
factlab.field = function field(label, input, hint = null) {
  const id = input.id || `field-${++numbered}`;
  input.id = id;
  const parts = [factlab.el("label", { for: id }, label), input];
  if (hint) {
    const told = factlab.el("p.hint", { id: `${id}-hint` }, hint);
    input.setAttribute("aria-describedby", told.id);
    parts.push(told);
  }
  return factlab.el("div.field", {}, parts);
};

/** A choice that is on or off. */
factlab.check = function check(label, given = {}) {
  const input = factlab.el("input", { type: "checkbox", ...given });
  return Object.assign(factlab.el("label.check", {}, input, label), { input });
};

/** A table with headings. Cells are texts or nodes. */
factlab.table = function table(caption, headings, rows, numeric = new Set()) {
  const { el } = factlab;
  const cell = (tag, content, column) =>
    el(tag + (numeric.has(column) ? ".number" : ""), tag === "th" ? { scope: "col" } : {}, content);
  return el("div.scroll", { tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, headings.map((h, i) => cell("th", h, i)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((c, i) => cell("td", c, i)))))));
};

/** A number with so many digits that count; "—" for none. */
factlab.number = function number(value, digits = 3) {
  if (value === null || value === undefined) return "—";
  const size = Math.abs(value);
  if (size >= 10 ** digits) return String(Math.round(value));
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
};

/** White space that one would not see. */
factlab.visible = function visible(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "→").replace(/^ | $/g, "␣");
};
