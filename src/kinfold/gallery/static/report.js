"use strict";
(() => {
  const groups = document.getElementById("groups");
  const index = document.getElementById("index");
  const sort = document.getElementById("sort");

  const arrange = (parent, by) => {
    const items = [...parent.children].filter((item) => item.dataset.rank);
    items.sort((a, b) => a.dataset[by] - b.dataset[by] || a.dataset.rank - b.dataset.rank);
    parent.prepend(...items);
  };
  sort.addEventListener("change", () => {
    arrange(groups, sort.value);
    arrange(index, sort.value);
  });
  document.getElementById("order").hidden = false;

  // j and k go to the next and the previous group.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === sort) return;
    const step = { j: 1, k: -1 }[event.key];
    if (!step) return;
    const sheets = [...groups.querySelectorAll(".group")];
    const here = sheets.findIndex((sheet) => sheet.getBoundingClientRect().bottom > 80);
    const started = here >= 0 && sheets[here].getBoundingClientRect().top < 80;
    const next = step > 0 ? here + (started ? 1 : 0) : here - 1;
    const sheet = sheets[Math.min(Math.max(next, 0), sheets.length - 1)];
    if (sheet) {
      sheet.focus({ preventScroll: true });
      sheet.scrollIntoView();
    }
  });
})();
