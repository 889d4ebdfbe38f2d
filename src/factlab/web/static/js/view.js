"use strict";
/* A page without a server: shows the documents that are written into it. */

{
  const { el } = factlab;
  const main = document.getElementById("main");
  const documents = JSON.parse(document.getElementById("documents").textContent);
  for (const one of documents) {
    main.append(el("section", { "aria-label": one.title }, el("h1", {}, one.title), factlab.resultView(one)));
  }
}
