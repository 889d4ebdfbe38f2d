"use strict";
/* A heat map of one kind of state: tokens down, layers across. */

{
  const { el } = factlab;
  const TOP = 4;
  const BOTTOM = 34;
  const LARGEST_LABEL = 156;
  const NOTHING = "#e3e3e3";

  /**
   * @param {object} given  kind, title, labels (of tokens), effects (rows of numbers or null), scale,
   *                        hint: (row, layer) => string, onchoose: (row, layer) => void
   */
  factlab.heatmap = function heatmap(given) {
    const { kind, labels, effects, scale } = given;
    const nLayers = effects[0].length;
    const canvas = el("canvas", { tabindex: 0, role: "img" });
    const told = el("p.readout", { "aria-live": "polite" });
    const figure = el("figure.map", {}, el("figcaption", {}, given.title), canvas, told);
    let at = null;
    let box = null;

    const rowHeight = labels.length > 24 ? 15 : 20;

    function measured() {
      const context = canvas.getContext("2d");
      context.font = "12px system-ui, sans-serif";
      const widest = Math.max(...labels.map((label) => context.measureText(label).width));
      const left = Math.min(LARGEST_LABEL, Math.ceil(widest) + 10);
      const width = Math.max(220, figure.clientWidth || 340);
      return { left, width, cell: (width - left - 2) / nLayers };
    }

    function fitted(context, label, room) {
      if (context.measureText(label).width <= room) return label;
      let cut = label;
      while (cut.length > 1 && context.measureText(`${cut}…`).width > room) cut = cut.slice(0, -1);
      return `${cut}…`;
    }

    // The map without the mark, so that a move of the mouse draws no cell again.
    const plain = document.createElement("canvas");

    function draw() {
      box = measured();
      const height = TOP + labels.length * rowHeight + BOTTOM;
      const ratio = window.devicePixelRatio || 1;
      canvas.width = plain.width = Math.round(box.width * ratio);
      canvas.height = plain.height = Math.round(height * ratio);
      canvas.style.width = `${box.width}px`;
      canvas.style.height = `${height}px`;
      const context = plain.getContext("2d");
      context.scale(ratio, ratio);
      const style = getComputedStyle(canvas);
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      context.textAlign = "right";
      context.fillStyle = style.color;
      labels.forEach((label, row) => {
        context.fillText(fitted(context, label, box.left - 8), box.left - 6, TOP + (row + 0.5) * rowHeight);
      });
      effects.forEach((values, row) => {
        values.forEach((value, layer) => {
          context.fillStyle = value === null ? NOTHING : factlab.colour(kind, value, scale);
          context.fillRect(box.left + layer * box.cell, TOP + row * rowHeight, Math.ceil(box.cell), rowHeight - 1);
        });
      });
      context.fillStyle = style.color;
      context.textAlign = "center";
      const every = Math.max(1, Math.ceil(26 / box.cell));
      const below = TOP + labels.length * rowHeight;
      for (let layer = 0; layer < nLayers; layer += every) {
        context.fillText(String(layer), box.left + (layer + 0.5) * box.cell, below + 9);
      }
      context.fillText("layer", box.left + (nLayers * box.cell) / 2, below + 25);
      mark();
    }

    function mark() {
      const context = canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(plain, 0, 0);
      if (!at) return;
      const ratio = window.devicePixelRatio || 1;
      context.scale(ratio, ratio);
      const [left, top, width] = [box.left + at.layer * box.cell, TOP + at.row * rowHeight, Math.max(3, box.cell)];
      context.strokeStyle = "#111111";
      context.lineWidth = 2;
      context.strokeRect(left, top, width, rowHeight - 1);
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1;
      context.strokeRect(left - 1.5, top - 1.5, width + 3, rowHeight + 2);
    }

    function move(row, layer) {
      at = {
        row: Math.max(0, Math.min(labels.length - 1, row)),
        layer: Math.max(0, Math.min(nLayers - 1, layer)),
      };
      told.textContent = given.hint(at.row, at.layer);
      mark();
    }

    function placed(event) {
      const bounds = canvas.getBoundingClientRect();
      const layer = Math.floor((event.clientX - bounds.left - box.left) / box.cell);
      const row = Math.floor((event.clientY - bounds.top - TOP) / rowHeight);
      const inside = layer >= 0 && layer < nLayers && row >= 0 && row < labels.length;
      return inside ? { row, layer } : null;
    }

    canvas.addEventListener("mousemove", (event) => {
      const place = placed(event);
      if (place && (!at || place.row !== at.row || place.layer !== at.layer)) move(place.row, place.layer);
    });
    canvas.addEventListener("click", (event) => {
      const place = placed(event);
      if (place) {
        move(place.row, place.layer);
        if (given.onchoose) given.onchoose(place.row, place.layer);
      }
    });
    const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.key in STEPS) {
        event.preventDefault();
        const [rows, layers] = STEPS[event.key];
        if (at) move(at.row + rows, at.layer + layers);
        else move(given.start.row, given.start.layer);
      } else if ((event.key === "Enter" || event.key === " ") && at && given.onchoose) {
        event.preventDefault();
        given.onchoose(at.row, at.layer);
      }
    });
    canvas.setAttribute("aria-label", `${given.title}. ${given.summary} Arrow keys move${given.onchoose ? ", Enter asks what the model says there" : ""}.`);

    new ResizeObserver(() => draw()).observe(figure);
    figure.at = () => at;
    figure.redraw = draw;
    return figure;
  };
}
