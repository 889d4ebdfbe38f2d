"use strict";
/* Two texts, with the words that differ marked. */

{
  const { el } = factlab;

  /** For the words of two texts, which of them are part of a longest common run of words. */
  function common(a, b) {
    const lengths = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
      }
    }
    const [kept, also] = [new Set(), new Set()];
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) {
        kept.add(i++);
        also.add(j++);
      } else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
      else j++;
    }
    return [kept, also];
  }

  const cut = (text) => text.match(/\s*\S+/g) || [];

  /** Two elements: the first text with what is gone marked, the second with what is new. */
  factlab.compared = function compared(before, after) {
    const [a, b] = [cut(before), cut(after)];
    const [kept, also] = common(a.map((word) => word.trim()), b.map((word) => word.trim()));
    const told = (words, same, tag) => el("span.said", {}, words.map((word, i) => (same.has(i) ? word : el(tag, {}, word))));
    return [told(a, kept, "del"), told(b, also, "ins")];
  };
}
