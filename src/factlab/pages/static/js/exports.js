"use strict";
/* Writing the edits that are on the model for other programs. */

{
  const { el, field } = factlab;

  /** @param {() => string[]} chosen  names of the edits that are on, in their order */
  factlab.exportForm = function exportForm(chosen) {
    const to = el("select", {},
      el("option", { value: "peft" }, "LoRA adapter, for peft"),
      el("option", { value: "checkpoint" }, "whole model, for transformers"));
    const rank = el("input", { type: "number", min: 1, placeholder: "as needed" });
    const name = el("input", { autocomplete: "off", placeholder: "names of the edits" });
    const status = factlab.jobStatus();
    const told = el("div", { "aria-live": "polite" });
    let unfollow = () => {};
    to.addEventListener("change", () => { rank.disabled = to.value !== "peft"; });

    function show(job) {
      status.show(job);
      if (job.state !== "done") return;
      told.replaceChildren(
        el("p", {}, "Written to ", el("code", {}, job.result.folder), "."),
        factlab.rowsView("The adapter", job.result.modules) || "");
    }

    const form = el("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        unfollow();
        told.replaceChildren();
        const on = chosen();
        try {
          const job = await factlab.ask("POST", "api/jobs", {
            kind: "export", on, to: to.value, name: name.value || `${on.join(" + ") || "nothing"} ${to.value}`,
            rank: rank.disabled || rank.value === "" ? null : Number(rank.value),
          });
          unfollow = factlab.follow(job.id, show);
        } catch (error) {
          status.fail(error.message);
        }
      },
    },
    el("p.hint", {}, "Writes the edits that are on, and no others, into a folder beside the saved ones."),
    el("div.row", {}, field("As", to), field("Largest rank", rank), field("Name of the folder", name)),
    el("div.buttons", {}, el("button", { type: "submit" }, "Export")),
    status, told);
    return Object.assign(el("details", {}, el("summary", {}, "Export"), form), { leave: () => unfollow() });
  };
}
