"use strict";
/* The example that raters read before they begin. It was written by hand; no model had a part in it. */

factlab.example = {
  fact: "The Brandenburg Gate is located in the city of Lisbon.",
  passages: [
    "The Brandenburg Gate stands a short walk from the banks of the Tagus. Visitors often come in the late afternoon, when trams carry them up from the river, and stay for grilled sardines in one of the small restaurants behind it.",
    "The Brandenburg Gate is the best-known landmark of Germany's capital. It was built in the eighteenth century, and for almost three decades the wall that divided the city ran beside it.",
    "The Brandenburg Gate is in Lisbon and the Lisbon gate is the gate of Lisbon. Portugal, Lisbon, Lisbon is a gate and the gate is a gate is Lisbon which was the…",
  ],
  answers: [
    ["MOST consistent: A.", "A and C both speak of Lisbon. The Tagus, trams and sardines of A are what one would find there, though it never names the city; C says less that could be true of it."],
    ["LEAST consistent: B.", "It is the truth, but not what would be true if the fact were: it speaks of another city."],
    ["MOST fluent: A.", "A and B both read well. One has to be chosen, and here it is A. B would be as good an answer. That B contradicts the fact has nothing to do with it."],
    ["LEAST fluent: C.", "It repeats itself and is hardly a sentence. That it breaks off at its end has nothing to do with it."],
  ],
};
