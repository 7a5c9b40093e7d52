// Where text is cut, as sentences. Words may end in dots where the whole is said beside them (title), and be out of
// view where one scrolls to them.
() => {
  const shown = (one) => one.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    && !one.closest(".sr, .skip, [hidden], .blank") && getComputedStyle(one).clipPath === "none";
  const said = (one) => {
    for (let up = one; up; up = up.parentElement) if (up.title) return true;
    return false;
  };
  const fontOf = (one) => { // the shorthand is empty where it can't say all
    const { fontWeight, fontSize, fontFamily } = getComputedStyle(one);
    return `${fontWeight} ${fontSize} ${fontFamily}`;
  };
  const found = [];
  const words = document.createTreeWalker(document.querySelector("dialog[open]") ?? document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode;
    const own = node.parentElement;
    if (!node.data.trim() || !shown(own) || own.closest("select, script, style, noscript, .said, svg")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    for (let up = own; up && up !== document.body; up = up.parentElement) {
      const style = getComputedStyle(up);
      if (style.position === "fixed" || up.matches("dialog, .works, .border-list, .options, .dialog-body, .column-scroll, .side, .image-body, code, .borders")) break;
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      if (up.classList.contains("ellipsis") && said(up)) break;
      const frame = up.getBoundingClientRect();
      const past = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (past > 1) found.push(`${node.data.trim().slice(0, 40)} (${up.className || up.tagName}, ${past.toFixed(0)} px)`);
    }
  }
  for (const field of document.querySelectorAll("select, .button, .link, h1, h2")) {
    if (!shown(field) || field.closest(".ellipsis, .border-list")) continue;
    if (field.tagName === "SELECT") {
      const ruler = document.createElement("canvas").getContext("2d");
      ruler.font = fontOf(field);
      const room = field.clientWidth - 34; // padding and the arrow
      const needs = ruler.measureText(field.selectedOptions[0]?.text ?? "").width;
      if (needs > room) found.push(`${field.selectedOptions[0].text} (select, ${(needs - room).toFixed(0)} px)`);
    } else if (field.scrollWidth > field.clientWidth + 1 && !field.querySelector(".ellipsis")) found.push(`${field.textContent.slice(0, 40)} (${field.className || field.tagName})`);
  }
  for (const field of document.querySelectorAll("input[placeholder]")) {
    if (!shown(field)) continue;
    const style = getComputedStyle(field);
    const ruler = document.createElement("canvas").getContext("2d");
    ruler.font = fontOf(field);
    const room = field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (ruler.measureText(field.placeholder).width > room + 1) found.push(`${field.placeholder} (placeholder)`);
  }
  for (const card of document.querySelectorAll(".card[href]")) {
    const frame = card.getBoundingClientRect();
    for (const one of card.querySelectorAll(".mosaic, .cell, .card-text, .card-title, .card-line, .card-line > *")) {
      const box = one.getBoundingClientRect();
      if (box.top < frame.top - 1 || box.bottom > frame.bottom + 1 || box.left < frame.left - 1 || box.right > frame.right + 1)
        found.push(`${one.className} leaves the card of group ${card.dataset.group}`);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  return found;
}
