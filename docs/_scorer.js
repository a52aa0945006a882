// Orders the results of the site's search. Questions and guides come first; figures and history come last.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    if (/^(faq|troubleshooting|tutorial|rayfall|how-to\/.*)$/.test(docname)) return score + 6;
    if (/^(changelog|explanation\/(benchmark|soak|autobahn|internals).*)$/.test(docname)) return score - 30;
    return score;
  },
  // The values of Sphinx's own scorer.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
