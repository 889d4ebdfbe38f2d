"use strict";
/* The screen on which a fact is traced. */

{
  const { el, field, check, number } = factlab;

  /** The prompt with its subject marked. */
  function marked(prompt, subject) {
    const start = subject ? prompt.indexOf(subject) : -1;
    if (start < 0) return el("p.preview", {}, prompt);
    return el("p.preview", {},
      prompt.slice(0, start), el("mark", {}, subject), prompt.slice(start + subject.length));
  }

  factlab.screens.trace = {
    name: "Trace",
    show(place, state, app) {
      const prompt = el("textarea", { rows: 2, required: true, spellcheck: "false", value: state.prompt || "The Eiffel Tower is located in the city of" });
      const subject = el("input", { required: true, autocomplete: "off", value: state.subject || "The Eiffel Tower" });
      const answer = el("input", { autocomplete: "off", value: state.answer || "" });
      const samples = el("input", { type: "number", min: 1, max: 100, value: state.samples || 10 });
      const window = el("input", { type: "number", min: 1, value: state.window || "" });
      const severed = ["mlp", "attn"].map((path) => check(path === "mlp" ? "MLP severed" : "attention severed", {
        value: path, checked: (state.severed || "").split(",").includes(path),
      }));
      const preview = el("div");
      const refreshed = () => preview.replaceChildren(marked(prompt.value, subject.value));
      const status = factlab.jobStatus();
      const result = el("div");
      const chosen = el("div.chosen", { "aria-live": "polite" });
      let unfollow = () => {};
      let view = null;

      function selected() {
        const text = prompt.value.slice(prompt.selectionStart, prompt.selectionEnd).trim();
        if (text) {
          subject.value = text;
          refreshed();
        }
      }
      prompt.addEventListener("mouseup", selected);
      prompt.addEventListener("keyup", (event) => event.shiftKey && selected());
      for (const input of [prompt, subject]) input.addEventListener("input", refreshed);

      function asked() {
        const config = { samples: Number(samples.value) || 10 };
        if (window.value) config.window = Number(window.value);
        const paths = severed.filter((one) => one.input.checked).map((one) => one.input.value);
        return { kind: "trace", prompt: prompt.value, subject: subject.value, answer: answer.value || null, severed: paths, config };
      }

      function show(job) {
        status.show(job);
        if (!job.result) return;
        view = factlab.traceView(job.result, (kind, row, layer) => said(job, kind, row, layer));
        result.replaceChildren(view);
      }

      async function begin(request) {
        unfollow();
        chosen.replaceChildren();
        try {
          const job = await factlab.ask("POST", "api/jobs", request);
          app.remember("trace", {
            prompt: request.prompt, subject: request.subject, answer: request.answer || undefined,
            samples: samples.value, window: window.value || undefined,
            severed: request.severed.join(",") || undefined, job: job.id,
          });
          unfollow = factlab.follow(job.id, show);
        } catch (error) {
          status.fail(error.message);
        }
      }

      async function said(job, kind, row, layer) {
        const trace = job.result;
        const effect = trace.effects[kind][row][layer];
        const list = el("ol.tokens", {}, el("li.hint", {}, "asking …"));
        const edit = el("button", {
          type: "button",
          onclick: () => app.go("edit", {
            template: job.request.prompt.replace(job.request.subject, "{}"), subject: job.request.subject, layer,
            true: trace.answer.trim(), from: "trace",
          }),
        }, `Edit at layer ${layer}`);
        chosen.replaceChildren(
          el("h2", {}, `“${trace.labels[row]}”, layer ${layer}`),
          el("p", {}, effect === null ? "Not traced." : `P(answer) ${number(trace.corrupted_prob + effect)}, effect ${number(effect)}. With this state restored the model would say:`),
          list, edit);
        try {
          const one = await factlab.ask("POST", "api/jobs", { ...job.request, kind: "cell", state: kind, position: row, layer });
          factlab.follow(one.id, (answered) => {
            if (answered.state === "failed") list.replaceChildren(el("li.error", {}, answered.error));
            if (answered.state === "done") {
              list.replaceChildren(...answered.result.said.map((each) =>
                el("li", {}, el("code", {}, factlab.visible(each.token)), ` ${number(each.prob)}`)));
            }
          });
        } catch (error) {
          list.replaceChildren(el("li.error", {}, error.message));
        }
      }

      const form = el("form.panel", {
        onsubmit: (event) => {
          event.preventDefault();
          begin(asked());
        },
      },
      el("h1", {}, "Where does the answer come from?"),
      field("Prompt", prompt, "Ends where the answer would follow. Select the subject in it with mouse or Shift and arrow keys."),
      preview,
      el("div.row", {}, field("Subject", subject), field("Answer", answer, "By default what the model says.")),
      el("details", { open: Boolean(state.severed || state.window) }, el("summary", {}, "How to trace"),
        el("div.row", {}, field("Noise samples", samples), field("Window of layers", window, "By default 10, or half of the model.")),
        el("fieldset", {}, el("legend", {}, "Paths to sever"), severed)),
      el("div.buttons", {},
        el("button.main", { type: "submit" }, "Trace"),
        el("button", { type: "button", onclick: () => begin({ ...asked(), severed: [], config: { ...asked().config, method: "gradient" } }) }, "Preview by one gradient")),
      status);
      refreshed();
      place.replaceChildren(form, el("div.results", {}, result, chosen));
      if (state.job) {
        factlab.ask("GET", `api/jobs/${encodeURIComponent(state.job)}`)
          .then(() => { unfollow = factlab.follow(state.job, show); })
          .catch((error) => status.fail(error.status === 404 ? "This trace is not kept here any more; press Trace to make it again." : error.message));
      }
      return () => unfollow();
    },
  };
}
