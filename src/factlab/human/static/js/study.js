"use strict";
/* The study: which rater, which screen, and how long each page is looked at. */

{
  const { el } = factlab;
  const main = document.getElementById("main");
  const who = document.getElementById("who");
  const study = JSON.parse(document.getElementById("study").textContent);
  let sitting = null;
  let since = null; // when the page that is shown began to be looked at

  const isRater = (text) => /^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= study.raters.length;

  /** Count the seconds since the last call for the page that is shown. */
  function count() {
    if (sitting && typeof sitting.screen === "number" && since !== null) {
      sitting.answers[sitting.screen].seconds += (performance.now() - since) / 1000;
      sitting.save();
    }
    since = document.hidden ? null : performance.now();
  }

  function show(view) {
    main.replaceChildren(view);
    scrollTo(0, 0);
    view.querySelector("h1").focus({ preventScroll: true });
  }

  function go(screen) {
    count();
    sitting.screen = screen;
    sitting.save();
    draw();
  }

  function draw() {
    const { screen } = sitting;
    if (screen === "how") show(factlab.howScreen(sitting, go));
    else if (screen === "end") show(factlab.endScreen(sitting, go));
    else if (typeof screen === "number") show(factlab.pageScreen(sitting, screen, go));
    else show(factlab.startScreen(sitting, go));
  }

  function begin() {
    count();
    const asked = /^#rater=(.*)$/.exec(location.hash);
    if (asked && isRater(asked[1])) {
      sitting = new factlab.Sitting(study, Number(asked[1]));
      who.replaceChildren(`Rater ${sitting.rater} · `, el("a", { href: "#rater=" }, "not me"));
      draw();
    } else {
      sitting = null;
      who.replaceChildren();
      const wrong = asked && asked[1] ? `There is no rater “${asked[1]}”.` : "";
      show(factlab.askRater(study, wrong, (text) => isRater(text) && Boolean(location.hash = `#rater=${text}`)));
    }
  }

  document.addEventListener("visibilitychange", count);
  window.addEventListener("pagehide", count);
  window.addEventListener("hashchange", begin);
  begin();
}
