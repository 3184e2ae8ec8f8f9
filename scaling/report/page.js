// A hover box with the text of the mark nearest to the pointer, legend entries that show and hide
// their series, and surfaces that turn with the pointer.
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

function paint(canvas, turn, tilt) {
  canvas.rows ??= JSON.parse(canvas.dataset.heights);
  const { rows, width, height } = canvas;
  const pen = canvas.getContext("2d"), last = rows.length - 1, scale = 0.66 * width;
  const [sin, cos, up, away] = [Math.sin(turn), Math.cos(turn), Math.cos(tilt), Math.sin(tilt)];
  const corner = (i, j) => {
    const [u, v, h] = [i / last - 0.5, j / last - 0.5, rows[i][j] / 999 - 0.5];
    const near = u * sin + v * cos;
    return [width / 2 + scale * (u * cos - v * sin), height / 2 + scale * (near * away - 0.7 * h * up), near];
  };
  const places = rows.map((row, i) => row.map((_, j) => corner(i, j)));
  const tiles = [];
  for (let i = 0; i < last; i++) {
    for (let j = 0; j < last; j++) {
      const corners = [places[i][j], places[i + 1][j], places[i + 1][j + 1], places[i][j + 1]];
      const level = (rows[i][j] + rows[i + 1][j] + rows[i + 1][j + 1] + rows[i][j + 1]) / 3996;
      tiles.push({ corners, level, near: corners[0][2] + corners[2][2] });
    }
  }
  pen.clearRect(0, 0, width, height);
  for (const { corners, level } of tiles.sort((a, b) => a.near - b.near)) {
    pen.beginPath();
    for (const [x, y] of corners) pen.lineTo(x, y);
    pen.closePath();
    pen.fillStyle = `hsl(${60 + 160 * level} 65% ${82 - 40 * level}%)`; // pale is low, as in contours
    pen.strokeStyle = "#0004";
    pen.fill();
    pen.stroke();
  }
}

for (const group of document.querySelectorAll(".reliefs")) {
  const canvases = group.querySelectorAll("canvas");
  let [turn, tilt] = [0.6, 0.6];
  const all = () => canvases.forEach((canvas) => paint(canvas, turn, tilt));
  group.addEventListener("pointerdown", ({ target, pointerId }) => target.setPointerCapture(pointerId));
  group.addEventListener("pointermove", ({ buttons, movementX, movementY }) => {
    if (!buttons) return;
    turn += movementX / 150;
    tilt = Math.min(1.5, Math.max(0.1, tilt + movementY / 150));
    all();
  });
  all();
}
