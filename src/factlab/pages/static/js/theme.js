"use strict";
/* Light or dark: what the system has, until somebody chooses. */

{
  const theme = document.getElementById("theme"); // a page in a notebook has no such button
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
    if (theme) theme.textContent = dark ? "Light" : "Dark";
    for (const figure of document.querySelectorAll("figure.map")) figure.redraw();
    window.dispatchEvent(new Event("resize"));
  }
  theme?.addEventListener("click", () => {
    kept = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("factlab-theme", kept);
    } catch {
      // as above
    }
    paint();
  });
  systemIsDark.addEventListener("change", paint);
  paint();
}
