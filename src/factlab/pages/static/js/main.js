"use strict";
/* Which screen is shown: the part of the address behind its #, as in #/trace?prompt=… */

{
  const { el, screens } = factlab;
  const main = document.getElementById("main");
  const nav = document.getElementById("screens");
  const LOOKS_EVERY_MS = 1000;
  let leave = () => {};
  let shown = null;

  const app = {
    /** The address of a screen in some state. */
    link(screen, state) {
      const given = Object.entries(state).filter(([, value]) => value !== undefined && value !== null);
      const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
      return `#/${screen}${query ? `?${query}` : ""}`;
    },
    go(screen, state) {
      location.hash = app.link(screen, state);
    },
    /** Put the state of the screen that is shown into the address. */
    remember(screen, state) {
      shown = app.link(screen, state);
      history.pushState(null, "", shown);
    },
    refresh: told,
  };

  function route() {
    if (location.hash === shown) return;
    shown = location.hash;
    const [, name, query] = /^#\/(\w+)(?:\?(.*))?$/.exec(location.hash) || [null, "trace", ""];
    const screen = screens[name] || screens.trace;
    leave();
    for (const link of nav.children) link.toggleAttribute("aria-current", link.dataset.screen === (screens[name] ? name : "trace"));
    document.title = `${screen.name} – factlab`;
    leave = screen.show(main, Object.fromEntries(new URLSearchParams(query || "")), app) || (() => {});
  }

  /** What the page says of the model. */
  async function told() {
    const place = document.getElementById("model");
    try {
      const state = await factlab.ask("GET", "api/state");
      factlab.banner(state.error);
      if (!state.model) {
        place.textContent = state.error ? "" : "Loading the model …";
        return Boolean(state.error);
      }
      const on = state.on.length ? ` with ${state.on.join(" + ")}` : "";
      place.textContent = `${state.model.name}, ${state.model.n_layers} layers${on}`;
      return true;
    } catch (error) {
      factlab.banner(error.message);
      return false;
    }
  }

  async function watch() {
    while (!(await told())) await new Promise((wake) => setTimeout(wake, LOOKS_EVERY_MS));
  }

  for (const [name, screen] of Object.entries(screens)) {
    nav.append(el("a", { href: `#/${name}`, "data-screen": name }, screen.name));
  }
  window.addEventListener("hashchange", route);
  window.addEventListener("popstate", route);
  route();
  watch();
}
