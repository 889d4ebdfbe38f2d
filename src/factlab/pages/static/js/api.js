"use strict";
/* Asking the server. */

{
  const { el } = factlab;
  const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("factlab-token");
  if (token) sessionStorage.setItem("factlab-token", token);
  if (location.hash.startsWith("#token=")) history.replaceState(null, "", location.pathname);
  const FOLLOW_EVERY_MS = 400;

  /** What the server answers; an Error with its sentence where it refuses. */
  factlab.ask = async function ask(method, path, body) {
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    let answer;
    try {
      answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    } catch {
      throw Object.assign(new Error("The server does not answer. Is it still running?"), { gone: true });
    }
    const document = await answer.json().catch(() => ({ error: `The server failed (${answer.status}).` }));
    if (!answer.ok) throw Object.assign(new Error(document.error), { status: answer.status });
    return document;
  };

  const ENDED = new Set(["done", "failed", "cancelled"]);

  /**
   * Follow a job to its end, whatever happens to the connection.
   * @param {string} id
   * @param {(job: object) => void} tell  called with the job whenever it has changed
   * @returns {() => void} stops following
   */
  factlab.follow = function follow(id, tell) {
    let stopped = false;
    let source = null;
    const path = `api/jobs/${encodeURIComponent(id)}`;

    async function poll() {
      while (!stopped) {
        try {
          const job = await factlab.ask("GET", path);
          factlab.banner(null);
          if (stopped) return;
          tell(job);
          if (ENDED.has(job.state)) return;
        } catch (error) {
          if (!error.gone) {
            tell({ state: "failed", error: error.message });
            return;
          }
          factlab.banner(error.message);
        }
        await new Promise((wake) => setTimeout(wake, FOLLOW_EVERY_MS));
      }
    }

    if (token) poll(); // streams cannot carry the token
    else {
      source = new EventSource(`${path}/events`);
      source.onmessage = (event) => {
        const job = JSON.parse(event.data);
        tell(job);
        if (ENDED.has(job.state)) source.close();
      };
      source.onerror = () => {
        source.close();
        poll();
      };
    }
    return () => {
      stopped = true;
      if (source) source.close();
    };
  };

  /** What is wrong with the whole page, or null. */
  factlab.banner = function banner(text) {
    const place = document.getElementById("banner");
    place.hidden = !text;
    if (place.textContent !== (text || "")) place.textContent = text || "";
  };

  /** A place that shows how a job is getting on, with a button to cancel it. */
  factlab.jobStatus = function jobStatus() {
    const told = el("span", { role: "status" });
    const bar = el("progress", { "aria-label": "Progress", hidden: true });
    const cancel = el("button.quiet", { type: "button", hidden: true }, "Cancel");
    const error = el("p.error", { role: "alert", hidden: true });
    const place = el("div.status", {}, told, bar, cancel, error);
    place.fail = (text) => {
      error.hidden = !text;
      error.textContent = text || "";
      if (text) told.textContent = "";
    };
    place.show = (job) => {
      const runs = job && !ENDED.has(job.state);
      place.fail(job ? job.error : null);
      bar.hidden = cancel.hidden = !runs;
      cancel.onclick = runs ? () => factlab.ask("DELETE", `api/jobs/${job.id}`).catch((e) => place.fail(e.message)) : null;
      const progress = job && job.progress;
      if (progress && progress.total > 1) {
        bar.max = progress.total;
        bar.value = progress.done;
      } else bar.removeAttribute("value");
      if (!job || job.state === "failed") told.textContent = "";
      else if (job.state === "waiting") told.textContent = "Waiting for its turn …";
      else if (job.state === "running") told.textContent = `${progress ? progress.label : "Running"} …`;
      else if (job.state === "cancelled") told.textContent = "Cancelled.";
      else told.textContent = `Done in ${factlab.number(job.seconds, 2)} s.`;
    };
    return place;
  };
}
