"use strict";
/* A page without a server: shows the documents that are written into it; those of files have a title. */

{
  const { el } = factlab;
  const main = document.getElementById("main");
  const documents = JSON.parse(document.getElementById("documents").textContent);
  for (const one of documents) {
    const title = one.title ? el("h1", {}, one.title) : null;
    main.append(el("section", { "aria-label": one.title }, title, factlab.resultView(one)));
  }
}
