// A hover box with the text of the mark nearest to the pointer, and legend entries that show and hide
// their series.
const box = document.getElementById("tip");
const REACH = 14; // pixels

function near(svg, x, y) {
  let best = null, least = REACH;
  for (const title of svg.querySelectorAll("title, [data-tip]")) {
    const mark = title.matches("title") ? title.parentNode : title;
    if (mark !== title) { // avoids a second box by the browser
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    if (mark.closest("[data-off]")) continue;
    const r = mark.getBoundingClientRect();
    const line = mark.localName === "path";
    const far = line
      ? (mark.matches(":hover") ? 0 : Infinity)
      : Math.hypot(x - (r.left + r.right) / 2, y - (r.top + r.bottom) / 2);
    if (far < least) [best, least] = [mark, far];
  }
  return best;
}

for (const svg of document.querySelectorAll("figure svg")) {
  svg.addEventListener("pointermove", ({ clientX, clientY }) => {
    const mark = near(svg, clientX, clientY);
    box.hidden = !mark;
    if (!mark) return;
    box.textContent = mark.dataset.tip;
    box.style.left = `${Math.min(clientX + 14, innerWidth - box.offsetWidth - 8)}px`;
    const below = clientY + 18;
    const fits = below + box.offsetHeight < innerHeight;
    box.style.top = `${fits ? below : clientY - box.offsetHeight - 12}px`;
  });
  svg.addEventListener("pointerleave", () => { box.hidden = true; });
  svg.addEventListener("click", ({ target }) => {
    const entry = target.closest("[data-entry]")?.dataset.entry;
    if (entry === undefined) return;
    for (const part of svg.querySelectorAll(`[data-series="${entry}"], [data-entry="${entry}"]`)) {
      part.toggleAttribute("data-off");
    }
  });
}
