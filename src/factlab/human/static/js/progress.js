"use strict";
/* What a rater has done so far: kept in this browser, so that a reload loses nothing. */

{
  const CHOICES = ["most_consistent", "least_consistent", "most_fluent", "least_fluent"];
  factlab.CHOICES = CHOICES;

  /** Whether this browser keeps anything for a page that was opened from a file. */
  factlab.keeps = function keeps() {
    try {
      localStorage.setItem("factlab-human-try", "1");
      localStorage.removeItem("factlab-human-try");
      return true;
    } catch {
      return false;
    }
  };

  /** The answers of one rater. */
  factlab.Sitting = class Sitting {
    /**
     * @param {object} study  what is written into the page
     * @param {number} rater  from 1
     */
    constructor(study, rater) {
      this.study = study;
      this.rater = rater;
      this.pages = study.raters[rater - 1];
      this.key = `factlab-human-${study.study}-${rater}`;
      this.screen = "start";
      this.agreed = false;
      this.answers = this.pages.map(() => ({ seconds: 0 }));
      this.load();
    }

    load() {
      let kept = null;
      try {
        kept = JSON.parse(localStorage.getItem(this.key));
      } catch {
        // nothing is kept here, or it was damaged: the study begins anew
      }
      if (!kept || !Array.isArray(kept.answers) || kept.answers.length !== this.pages.length) return;
      const isPage = Number.isInteger(kept.screen) && kept.screen >= 0 && kept.screen < this.pages.length;
      this.screen = isPage || ["how", "end"].includes(kept.screen) ? kept.screen : "start";
      this.agreed = kept.agreed;
      this.answers = kept.answers;
    }

    save() {
      try {
        const { screen, agreed, answers } = this;
        localStorage.setItem(this.key, JSON.stringify({ screen, agreed, answers }));
      } catch {
        // the start screen says that nothing is kept
      }
    }

    /** What is wrong with the answers of a page: by the name of the choice, in words. */
    faults(number) {
      const given = this.answers[number];
      const found = {};
      for (const name of CHOICES) if (!given[name]) found[name] = "Please choose one.";
      for (const what of ["consistent", "fluent"]) {
        if (given[`most_${what}`] && given[`most_${what}`] === given[`least_${what}`]) {
          found[`least_${what}`] = `Passage ${given[`most_${what}`]} cannot be both the most and the least ${what}.`;
        }
      }
      return found;
    }

    isDone(number) {
      return Object.keys(this.faults(number)).length === 0;
    }

    get nDone() {
      return this.pages.filter((_, number) => this.isDone(number)).length;
    }

    /** The document that is handed back: pages whose four questions are answered. */
    document() {
      const pages = this.answers
        .map(({ seconds, ...given }, i) => ({ page: i + 1, ...given, seconds: Math.round(seconds * 10) / 10 }))
        .filter((_, i) => this.isDone(i));
      return {
        format: "factlab human answers 1",
        study: this.study.study,
        rater: this.rater,
        stopped: pages.length < this.pages.length,
        pages,
      };
    }
  };
}
