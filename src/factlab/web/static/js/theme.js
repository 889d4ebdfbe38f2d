"use strict";
/* Light or dark: what the system has, until somebody chooses. */

{
  const theme = document.getElementById("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  let kept = null;
  try {
    kept = localStorage.getItem("factlab-theme");
  } catch {
    // a page from a file may have no storage: the choice lasts as long as the page
  }

  function paint() {
    const dark = kept ? kept === "dark" : systemIsDark.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    theme.textContent = dark ? "Light" : "Dark";
    window.dispatchEvent(new Event("resize"));
  }
  theme.addEventListener("click", () => {
    kept = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("factlab-theme", kept);
    } catch {
      // as above
    }
    paint();
    for (const figure of document.querySelectorAll("figure.map")) figure.redraw();
  });
  systemIsDark.addEventListener("change", paint);
  paint();
}
