"use strict";
/* The screen with everything that was asked for. */

{
  const { el, table, number } = factlab;
  const TITLES = {
    trace: (request) => request.prompt,
    edit: (request) => `${request.fact.template.replace("{}", request.fact.subject)} → ${request.fact.target_new || "erased"} (${request.method.name})`,
    ask: (request) => request.prompts.join(" / "),
    stack: (request) => request.on.join(" + ") || "no edit",
    export: (request) => `${request.on.join(" + ")} as ${request.to}: ${request.name}`,
  };

  const STATES = {
    trace: (request) => ({ prompt: request.prompt, subject: request.subject, answer: request.answer || undefined, samples: request.config.samples, window: request.config.window || undefined, severed: request.severed.join(",") || undefined }),
    edit: ({ fact, method }) => ({
      template: fact.template, subject: fact.subject, new: fact.target_new || undefined, true: fact.target_true || undefined, method: method.name, layer: method.layer ?? undefined,
      paraphrases: fact.paraphrases.join("\n") || undefined, neighbours: fact.neighbours.join("\n") || undefined, prompts: fact.prompts.join("\n") || undefined,
    }),
    ask: ({ prompts, n_tokens, chat, stacks }) => ({
      prompts: prompts.join("\n"), tokens: n_tokens, chat: chat ? "1" : undefined,
      alone: stacks.some((names) => names.length > 1) && !stacks.some((names) => names.length === 1) ? "0" : undefined,
    }),
  };

  factlab.screens.history = {
    name: "History",
    show(place, _state, app) {
      const told = el("div", {}, el("p.hint", {}, "Loading …"));
      place.replaceChildren(el("section.panel", {}, el("h1", {}, "What was asked for"), told));
      const refresh = async () => {
        try {
          const jobs = (await factlab.ask("GET", "api/jobs")).filter((job) => job.request.kind !== "cell").reverse();
          const rows = jobs.map((job) => {
            const { kind } = job.request;
            const title = TITLES[kind](job.request);
            const screen = kind === "ask" ? "stack" : kind;
            const state = STATES[kind] && { ...STATES[kind](job.request), job: job.id };
            return [
              new Date(job.asked_s * 1000).toLocaleString(), kind,
              state ? el("a", { href: app.link(screen, state) }, title) : title,
              job.error ? `${job.state}: ${job.error}` : job.state,
              job.seconds === null ? "" : number(job.seconds, 2),
            ];
          });
          told.replaceChildren(rows.length ? table("Jobs, newest first", ["When", "What", "Of", "State", "Seconds"], rows, new Set([4])) : el("p.hint", {}, "Nothing yet."));
        } catch (error) {
          told.replaceChildren(el("p.error", {}, error.message));
        }
      };
      refresh();
      const timer = setInterval(refresh, 3000);
      return () => clearInterval(timer);
    },
  };
}
