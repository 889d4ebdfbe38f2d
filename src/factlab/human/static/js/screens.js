"use strict";
/* What raters see: one screen after the other. */

{
  const { el } = factlab;
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  const button = (text, onclick, kind = "") => el(`button${kind}`, { type: "button", onclick }, text);
  const heading = (text) => el("h1", { tabindex: -1 }, text);

  const passageView = (letter, text) =>
    el("article.passage", { "aria-label": `Passage ${letter}` }, el("h2", {}, `Passage ${letter}`), el("p", {}, text));

  const factView = (fact, kept = "") => el(`div.fact${kept}`, {}, el("p.hint", {}, "Made-up fact"), el("p.said", {}, fact));

  /** Which rater is it? */
  factlab.askRater = function askRater(study, wrong, onrater) {
    const input = el("input", { inputmode: "numeric", autocomplete: "off", required: true });
    const fault = el("p.error", { role: "alert" }, wrong);
    const form = el("form.panel.prose", {
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        if (!onrater(input.value.trim())) {
          fault.textContent = `Please type a number from 1 to ${study.raters.length}.`;
          input.focus();
        }
      },
    },
    el("div.number-field", {}, factlab.field("Your number", input, `You were given one, from 1 to ${study.raters.length}.`)),
    fault,
    el("div.buttons", {}, el("button.main", { type: "submit" }, "Continue")));
    return el("section", {}, heading("Which rater are you?"), form);
  };

  /** What it is about, and whether the rater takes part. */
  factlab.startScreen = function startScreen(sitting, go) {
    const n = sitting.pages.length;
    const begin = el("button.main", { type: "button", disabled: !sitting.agreed, onclick: () => go("how") }, "Begin");
    const agree = factlab.check("I have read this and want to take part.", {
      checked: sitting.agreed,
      onchange: (event) => {
        sitting.agreed = event.target.checked;
        begin.disabled = !sitting.agreed;
        sitting.save();
      },
    });
    return el("section", {}, heading("Welcome"),
      el("div.panel.prose", {},
        el("p", {}, `You will read short texts that were written by AI systems, and say which fit a made-up fact and which read well. There are ${plural(n, "page")}; most people need less than three minutes for each.`),
        el("h2", {}, "Before you begin"),
        el("ul", {},
          el("li", {}, "Taking part is your own choice. You may stop whenever you like, and need not say why."),
          el("li", {}, "The texts were not checked. They say things that are not true, and may be strange or unpleasant."),
          el("li", {}, "This page sends nothing. Your answers stay in this browser until you download them as a file at the end and hand it over."),
          el("li", {}, "The file has your rater number, your choices and the seconds that you spent on each page, and nothing else about you."),
          sitting.study.contact ? el("li", {}, `Questions and complaints: ${sitting.study.contact}`) : null),
        factlab.keeps() ? el("p.hint", {}, "You may close or reload this page and go on later, in the same browser.")
          : el("p.note", {}, "This browser keeps nothing for this page: if you close or reload it, your answers are lost."),
        el("p", {}, agree),
        el("div.buttons", {}, begin)));
  };

  /** What to do, with an example. */
  factlab.howScreen = function howScreen(sitting, go) {
    const { example } = factlab;
    const each = sitting.study.letters.length;
    return el("section", {}, heading("What to do"),
      el("div.panel.prose", {},
        el("p", {}, `Every page states a fact that is made up, and shows ${each} passages. Each was written by another AI system; which of them is A, B and so on changes from page to page. All passages of a page begin alike. Read them, and answer four questions:`),
        el("ul", {},
          el("li", {}, el("strong", {}, "Consistent: "), "which passage fits best, and which worst, with a world in which the made-up fact is true? It counts what is said, not how well."),
          el("li", {}, el("strong", {}, "Fluent: "), "which passage reads best, and which worst? It counts whether the text is natural, clear and free of repetition, not whether it is true.")),
        el("ul", {},
          el("li", {}, "If two seem equally good, choose one all the same."),
          el("li", {}, "You may look things up."),
          el("li", {}, "Passages are cut off at about the same length. That one breaks off at “…” does not count against it."))),
      el("h2", {}, "An example"),
      factView(example.fact),
      el("div.passages", {}, example.passages.map((text, i) => passageView("ABC"[i], text))),
      el("div.panel.prose", {},
        el("h2", {}, "What one might answer, and why"),
        el("ul", {}, example.answers.map(([answer, why]) => el("li", {}, el("strong", {}, answer), ` ${why}`)))),
      el("div.buttons", {},
        button("Back", () => go("start")),
        button("To the first page", () => go(0), ".main")));
  };

  const QUESTIONS = {
    most_consistent: "MOST consistent with the made-up fact",
    least_consistent: "LEAST consistent with the made-up fact",
    most_fluent: "MOST fluent",
    least_fluent: "LEAST fluent",
  };

  /** One item. */
  factlab.pageScreen = function pageScreen(sitting, number, go) {
    const { item, order } = sitting.pages[number];
    const { fact, passages } = sitting.study.items[item];
    const letters = [...sitting.study.letters];
    const given = sitting.answers[number];
    const n = sitting.pages.length;
    const told = {};
    let asked = false;

    function tell() {
      const faults = sitting.faults(number);
      for (const [name, place] of Object.entries(told)) {
        const clash = faults[name] && given[name];
        place.textContent = faults[name] && (asked || clash) ? faults[name] : "";
      }
      return Object.keys(faults)[0];
    }

    function question(name) {
      told[name] = el("p.error", { role: "alert", id: `${name}-told` });
      return el("fieldset", { id: name, "aria-describedby": told[name].id },
        el("legend", {}, QUESTIONS[name]),
        el("div.choices", {}, letters.map((letter) =>
          el("label.choice", {},
            el("input", {
              type: "radio", name, value: letter, checked: given[name] === letter,
              "aria-label": `Passage ${letter}`,
              onchange: () => {
                given[name] = letter;
                sitting.save();
                tell();
              },
            }), letter))),
        told[name]);
    }

    function next() {
      asked = true;
      const wrong = tell();
      if (wrong) document.querySelector(`#${wrong} input`).focus();
      else go(number + 1 < n ? number + 1 : "end");
    }

    const place = el("div.place", {},
      heading(`Page ${number + 1} of ${n}`),
      el("progress", { max: n, value: sitting.nDone, "aria-label": "Pages that are answered" }),
      el("span.hint", {}, `${sitting.nDone} of ${n} answered`));
    const view = el("section", {}, place, factView(fact, ".kept"),
      el("div.passages", {}, letters.map((letter, i) => passageView(letter, passages[order[i]]))),
      el("div.questions", {},
        el("div.panel", {}, el("h2", {}, "Consistency: which passage is …"), question("most_consistent"), question("least_consistent")),
        el("div.panel", {}, el("h2", {}, "Fluency: which passage is …"), question("most_fluent"), question("least_fluent"))),
      el("p.hint", {}, "If two seem equal, choose one all the same. You may look things up; a cut-off ending does not count."),
      el("div.buttons", {},
        button("Back", () => go(number ? number - 1 : "how")),
        button(number + 1 < n ? "Next" : "Finish", next, ".main"),
        button("Stop here", () => go("end"), ".last")));
    tell();
    return view;
  };

  /** Handing over. */
  factlab.endScreen = function endScreen(sitting, go) {
    const [done, n] = [sitting.nDone, sitting.pages.length];
    const left = sitting.pages.findIndex((_, number) => !sitting.isDone(number));
    const name = `answers-${sitting.study.study}-rater-${sitting.rater}.json`;
    const said = el("p", { role: "status" });

    function download() {
      const text = `${JSON.stringify(sitting.document(), null, 2)}\n`;
      const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      el("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      said.textContent = `Saved as ${name}. Please hand this file to whoever gave you the page.`;
    }

    return el("section", {},
      heading(left < 0 ? "Thank you" : "You have stopped"),
      el("div.panel.prose", {},
        el("p.lead", {}, left < 0 ? `All ${plural(n, "page")} are answered.`
          : `${done} of ${plural(n, "page")} ${done === 1 ? "is" : "are"} answered. What you have answered counts. You may also go on.`),
        el("p", {}, "One step is left: download your answers, and hand the file to whoever gave you this page."),
        el("div.buttons", {},
          button("Download answers", download, ".main"),
          left < 0 ? button("Back to the last page", () => go(n - 1)) : button(`Go on with page ${left + 1}`, () => go(left))),
        said));
  };
}
