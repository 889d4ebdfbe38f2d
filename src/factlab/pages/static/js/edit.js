"use strict";
/* The screen on which a fact is edited, and the model asked before and after. */

{
  const { el, field, table, number } = factlab;
  const KINDS = { rewrite: "The fact", paraphrase: "Paraphrase", neighbour: "Neighbour", prompt: "Prompt" };
  const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

  /** What an edit did: texts and probabilities before and after, and the weights it changes. */
  factlab.editView = function editView(document) {
    const rows = document.asked.map((one) => {
      const [before, after] = one.after ? factlab.compared(one.before.text, one.after.text) : [one.before.text, "…"];
      const probability = (answer, which) => (answer ? number(answer[which]) : "…");
      return [
        KINDS[one.kind] || one.kind, one.prompt, before, after,
        `${probability(one.before, "new_prob")} → ${probability(one.after, "new_prob")}`,
        `${probability(one.before, "true_prob")} → ${probability(one.after, "true_prob")}`,
      ];
    });
    const parts = [
      table("Before and after", ["", "Prompt", "Before", "After", "P(new)", "P(true)"], rows, new Set([4, 5])),
      el("p.hint", {}, "Struck out: words that are gone. Underlined: words that are new. Probabilities are means over the target's tokens."),
    ];
    parts.push(factlab.rowsView("What is changed", document.changes));
    if (document.edit) {
      const source = document.edit.diagnostics && document.edit.diagnostics.layer_source;
      if (source) parts.push(el("p.hint", {}, `Layer from: ${source}.`));
    }
    return el("section", { "aria-label": "The edit" }, parts);
  };

  factlab.screens.edit = {
    name: "Edit",
    show(place, state, app) {
      const template = el("input", { required: true, autocomplete: "off", value: state.template || "" });
      const subject = el("input", { autocomplete: "off", value: state.subject || "" });
      const fresh = el("input", { autocomplete: "off", value: state.new || "" });
      const known = el("input", { autocomplete: "off", value: state.true || "" });
      const method = el("select");
      const layer = el("input", { type: "number", min: 0, value: state.layer ?? "", placeholder: "preset" });
      const texts = Object.fromEntries(["paraphrases", "neighbours", "prompts"].map((name) =>
        [name, el("textarea", { rows: 3, spellcheck: "false", value: state[name] || "" })]));
      const examples = el("select", {}, el("option", { value: "" }, "An example …"));
      const about = el("p.hint");
      const reason = el("p.hint");
      const status = factlab.jobStatus();
      const result = el("div");
      let unfollow = () => {};

      function fill(one) {
        template.value = one.template;
        subject.value = one.subject;
        fresh.value = one.target_new;
        known.value = one.target_true;
        texts.paraphrases.value = one.paraphrases.join("\n");
        texts.neighbours.value = one.neighbours.join("\n");
      }

      factlab.ask("GET", "api/examples").then((all) => {
        all.forEach((one, i) => examples.append(el("option", { value: i }, `${one.prompt} … ${one.target_true} → ${one.target_new}`)));
        examples.addEventListener("change", () => examples.value !== "" && fill(all[Number(examples.value)]));
        if (!state.template && !state.job) fill(all[0]);
      }).catch((error) => status.fail(error.message));

      factlab.ask("GET", "api/methods").then((all) => {
        method.append(...all.map((one) => el("option", { value: one.name }, one.name)));
        method.value = state.method || "rome";
        const told = () => {
          const one = all.find((each) => each.name === method.value);
          about.textContent = one ? one.about : "";
          layer.disabled = Boolean(one) && !one.has_layer;
        };
        method.addEventListener("change", told);
        told();
      }).catch((error) => status.fail(error.message));

      factlab.ask("GET", "api/state").then(({ model }) => {
        if (!model) return;
        layer.max = model.n_layers - 1;
        const told = () => {
          const preset = model.layer === null ? "traces of well-known facts choose one, for this model has no preset" : `layer ${model.layer} from the ${model.layer_source}`;
          if (layer.value !== "" && layer.value === state.layer && state.from === "trace") reason.textContent = `Layer ${layer.value}: the cell that was chosen in the trace. Without it: ${preset}.`;
          else if (layer.value !== "") reason.textContent = `Layer ${layer.value}: your choice. Without it: ${preset}.`;
          else reason.textContent = `Without a layer: ${preset}.`;
        };
        layer.addEventListener("input", told);
        told();
      }).catch((error) => status.fail(error.message));

      function asked() {
        return {
          kind: "edit",
          fact: {
            template: template.value, subject: subject.value,
            target_new: fresh.value || null, target_true: known.value || null,
            paraphrases: lines(texts.paraphrases.value), neighbours: lines(texts.neighbours.value), prompts: lines(texts.prompts.value),
          },
          method: { name: method.value, layer: layer.value === "" || layer.disabled ? null : Number(layer.value) },
        };
      }

      function keeping(job) {
        const name = el("input", { required: true, autocomplete: "off", value: `${subject.value || "edit"} ${fresh.value}`.replace(/[^\w .+-]/g, "").trim() });
        const told = el("span", { role: "status" });
        return el("form.row.panel", {
          onsubmit: async (event) => {
            event.preventDefault();
            try {
              await factlab.ask("POST", "api/edits", { job: job.id, name: name.value });
              told.replaceChildren("Saved. ", el("a", { href: app.link("stack", {}) }, "Apply it on the stack"));
            } catch (error) {
              told.textContent = error.message;
            }
          },
        }, field("Name of the edit", name), el("button", { type: "submit" }, "Save"), told);
      }

      function show(job) {
        status.show(job);
        if (!job.result) return;
        result.replaceChildren(factlab.editView(job.result));
        if (job.state === "done") result.append(keeping(job));
      }

      const form = el("form.panel", {
        onsubmit: async (event) => {
          event.preventDefault();
          unfollow();
          const request = asked();
          try {
            const job = await factlab.ask("POST", "api/jobs", request);
            const { fact } = request;
            app.remember("edit", {
              template: fact.template, subject: fact.subject, new: fact.target_new || undefined, true: fact.target_true || undefined,
              method: method.value, layer: layer.value || undefined, from: layer.value === state.layer ? state.from : undefined,
              ...Object.fromEntries(Object.keys(texts).map((name) => [name, texts[name].value || undefined])), job: job.id,
            });
            unfollow = factlab.follow(job.id, show);
          } catch (error) {
            status.fail(error.message);
          }
        },
      },
      el("h1", {}, "Make the model say something else"),
      field("Begin with", examples),
      field("Sentence", template, "With {} where the subject stands, ending where the object would follow."),
      el("div.row", {}, field("Subject", subject), field("New object", fresh), field("True object", known)),
      el("div.row", {}, field("Method", method), field("Layer", layer)),
      about, reason,
      el("details", { open: Boolean(state.paraphrases || state.neighbours || state.prompts) || !state.template },
        el("summary", {}, "What else to ask, a line each"),
        el("div.row", {}, field("Paraphrases", texts.paraphrases), field("Neighbours, which must not change", texts.neighbours), field("Other prompts", texts.prompts))),
      el("div.buttons", {}, el("button.main", { type: "submit" }, "Edit")),
      status);
      place.replaceChildren(form, result);
      if (state.job) {
        factlab.ask("GET", `api/jobs/${encodeURIComponent(state.job)}`)
          .then(() => { unfollow = factlab.follow(state.job, show); })
          .catch((error) => status.fail(error.status === 404 ? "This edit is not kept here any more; press Edit to make it again." : error.message));
      }
      return () => unfollow();
    },
  };
}
