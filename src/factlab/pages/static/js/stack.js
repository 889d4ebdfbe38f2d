"use strict";
/* The screen with saved edits: which are on the model, in which order, and what it says with them. */

{
  const { el, field, check, table } = factlab;
  const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

  /** Answers of several choices of edits, a column each; words that the plain model did not say are marked. */
  function answers(result) {
    const headings = ["Prompt", ...result.columns.map((column) => column.stack.join(" + ") || "plain model")];
    const plain = result.columns.find((column) => !column.stack.length);
    const rows = result.prompts.map((prompt, i) => [
      prompt,
      ...result.columns.map((column) => (plain && column !== plain ? factlab.compared(plain.texts[i], column.texts[i])[1] : column.texts[i])),
    ]);
    return table("Answers", headings, rows);
  }

  factlab.screens.stack = {
    name: "Stack",
    show(place, state, app) {
      const status = factlab.jobStatus();
      const asking = factlab.jobStatus();
      const list = el("ol.stack");
      const result = el("div");
      let unfollow = () => {};
      let edits = [];
      let order = [];
      let on = new Set();

      function draw() {
        if (!edits.length) {
          list.replaceChildren(el("li.hint", {}, "No edit was saved yet. ", el("a", { href: app.link("edit", {}) }, "Make one")));
          return;
        }
        list.replaceChildren(...order.map((name, i) => {
          const edit = edits.find((one) => one.name === name);
          const box = check(name, { checked: on.has(name), disabled: Boolean(edit.error), onchange: (event) => {
            if (event.target.checked) on.add(name);
            else on.delete(name);
            apply();
          } });
          const move = (by, label, sign) => el("button.quiet", {
            type: "button", "aria-label": `${label} ${name}`, disabled: i + by < 0 || i + by >= order.length,
            onclick: () => {
              [order[i], order[i + by]] = [order[i + by], order[i]];
              draw();
              if (on.has(name)) apply();
            },
          }, sign);
          const fact = (edit.facts || [])[0];
          const told = edit.error || `${edit.method}, ${edit.n_facts === 1 && fact ? `“${fact.prompt}” → ${(fact.new || "").trim() || "erased"}` : `${edit.n_facts} facts`}`;
          return el("li", {}, box, el("span.hint", {}, told), move(-1, "Earlier:", "↑"), move(1, "Later:", "↓"));
        }));
      }

      const chosen = () => order.filter((name) => on.has(name));
      const exporting = factlab.exportForm(chosen);

      async function apply() {
        unfollow();
        try {
          const job = await factlab.ask("POST", "api/jobs", { kind: "stack", on: chosen() });
          unfollow = factlab.follow(job.id, (now) => {
            status.show(now);
            if (now.state === "failed") refresh();
            if (now.state === "done") app.refresh();
          });
        } catch (error) {
          status.fail(error.message);
        }
      }

      async function refresh() {
        try {
          const [listed, now] = await Promise.all([factlab.ask("GET", "api/edits"), factlab.ask("GET", "api/state")]);
          edits = listed;
          on = new Set(now.on);
          const names = listed.map((edit) => edit.name);
          order = [...now.on.filter((name) => names.includes(name)), ...names.filter((name) => !on.has(name))];
          draw();
        } catch (error) {
          status.fail(error.message);
        }
      }

      const prompts = el("textarea", { rows: 3, required: true, spellcheck: "false", value: state.prompts || "The Eiffel Tower is located in the city of\nTo see the Eiffel Tower, travel to" });
      const length = el("input", { type: "number", min: 1, max: 400, value: state.tokens || 20 });
      const chat = check("in the chat template", { checked: state.chat === "1" });
      const alone = check("each edit alone", { checked: state.alone !== "0" });

      function stacks() {
        const now = chosen();
        const all = [[]];
        if (alone.input.checked) all.push(...now.map((name) => [name]));
        if (now.length > 1 || (now.length && !alone.input.checked)) all.push(now);
        return all;
      }

      let unfollowAnswers = () => {};
      const show = (job) => {
        asking.show(job);
        if (job.result && job.result.columns) result.replaceChildren(answers(job.result));
      };

      const form = el("form.panel", {
        onsubmit: async (event) => {
          event.preventDefault();
          unfollowAnswers();
          try {
            const job = await factlab.ask("POST", "api/jobs", { kind: "ask", prompts: lines(prompts.value), stacks: stacks(), n_tokens: Number(length.value) || 20, chat: chat.input.checked });
            app.remember("stack", { prompts: prompts.value, tokens: length.value, chat: chat.input.checked ? "1" : undefined, alone: alone.input.checked ? undefined : "0", job: job.id });
            unfollowAnswers = factlab.follow(job.id, show);
          } catch (error) {
            asking.fail(error.message);
          }
        },
      },
      el("h2", {}, "Ask"),
      field("Prompts, a line each", prompts),
      el("div.row", {}, field("Tokens to write", length), el("div", {}, alone, chat)),
      el("div.buttons", {}, el("button.main", { type: "submit" }, "Ask with and without")),
      asking);

      place.replaceChildren(
        el("section.panel", {}, el("h1", {}, "Edits on the model"),
          el("p.hint", {}, "They are applied from the top. Taking them off gives the weights back to the bit."),
          list,
          el("div.buttons", {}, el("button", { type: "button", onclick: () => { on = new Set(); draw(); apply(); } }, "Take all off")),
          status, exporting),
        form, result);
      refresh();
      if (state.job) unfollowAnswers = factlab.follow(state.job, show);
      return () => {
        unfollow();
        unfollowAnswers();
        exporting.leave();
      };
    },
  };
}
