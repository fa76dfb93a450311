// The two canvases: below what stays while the pointer moves, above what follows it.

const MINUS = "\u2212";
// Commas between thousands, as everywhere.
const grouped = (text) => text.replace(/\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ","));
const fmt = (value, digits) =>
  Number.isFinite(value) ? grouped((Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits)).replace("-", MINUS) : "—";
const MOST_ELLIPSES = 3_000;

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push([k * step, fmt(k * step, digits)]);
  return found;
}

// What changes with the view alone. Marks are slow when there are many: while a hand moves the
// view they are shown as last drawn, stretched, and drawn anew when it rests.
function drawBelow(plane, stretched) {
  const { below: ctx, view, theme, ratio } = plane, { area } = view;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, plane.width, plane.height);
  drawAxes(plane);
  ctx.save();
  ctx.beginPath();
  ctx.rect(area.x, area.y, area.width, area.height);
  ctx.clip();
  if (plane.data.layers.lattice) drawLattice(plane);
  drawVeils(plane);
  drawLines(plane);
  if (stretched && plane.marksView) {
    const { marksView: old } = plane;
    ctx.imageSmoothingEnabled = true;
    ctx.drawImage(plane.marks.canvas, view.x(old.left), view.y(old.top),
      (old.right - old.left) * view.scaleX, (old.top - old.bottom) * view.scaleY);
  } else {
    drawMarks(plane);
    ctx.drawImage(plane.marks.canvas, area.x, area.y, area.width, area.height);
    drawThumbnails(plane);
  }
  drawArrows(plane);
  const taken = [];
  drawClassNames(plane, taken);
  drawLineNames(plane, taken);
  drawNote(plane);
  ctx.restore();
  ctx.strokeStyle = theme.line;
  ctx.lineWidth = 1;
  ctx.strokeRect(area.x - 0.5, area.y - 0.5, area.width + 1, area.height + 1);
}

// The first of some places at which words meet nothing that is taken; else the first of all.
function freePlace(taken, places, halfWidth, halfHeight) {
  const meets = ([x, y]) => taken.some(([otherX, otherY, w, h]) =>
    Math.abs(x - otherX) < halfWidth + w && Math.abs(y - otherY) < halfHeight + h);
  const found = places.find((place) => !meets(place)) ?? places[0];
  taken.push([...found, halfWidth, halfHeight]);
  return found;
}

function drawClassNames({ below: ctx, view, theme, data }, taken) {
  if (!data.layers.labels) return;
  const font = "650 15px ";
  ctx.font = font + theme.font;
  for (const { text, at } of data.labels) {
    const [x, y] = [view.x(at[0]), view.y(at[1])];
    const near = [0, -17, 17, -34, 34].map((dy) => [x, y + dy]);
    const half = ctx.measureText(text).width / 2 + 2;
    halo(ctx, theme, text, ...freePlace(taken, near, half, 8), font);
  }
}

// What is not drawn one by one, or not in view, and how to see it so.
function drawNote(plane) {
  const { below: ctx, view: { area }, theme, data, drawnAs, ellipsesDrawn, points } = plane;
  const words = [], far = plane.beyond();
  if (far.count) {
    words.push(`${grouped(String(far.count))} ${data.noun}${far.count > 1 ? "s lie" : " lies"} farther out; zoom out or press \u2922`);
  }
  if (drawnAs === "density") {
    words.push(`${grouped(String(points.x.length))} ${data.noun}s, shown by how many lie where; zoom in for single ones`);
  }
  if (data.layers.ellipses && ellipsesDrawn === false)
    words.push(`Gaussians are drawn where at most ${MOST_ELLIPSES} are in view; zoom in`);
  words.forEach((text, line) => {
    ctx.font = `12px ${theme.font}`;
    const left = area.x + 10 + ctx.measureText(text).width / 2;
    halo(ctx, theme, text, left, area.y + area.height - 14 - 18 * line, "12px ");
  });
}

function halo(ctx, theme, text, x, y, font) {
  ctx.font = font + theme.font;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.lineJoin = "round";
  ctx.lineWidth = 4;
  ctx.strokeStyle = theme.ground;
  ctx.strokeText(text, x, y);
  ctx.fillStyle = theme.ink;
  ctx.fillText(text, x, y);
}

function drawAxes({ below: ctx, view, theme, data }) {
  const { area } = view;
  ctx.font = `12px ${theme.font}`;
  ctx.fillStyle = theme.ink;
  ctx.strokeStyle = theme.line;
  ctx.lineWidth = 1;
  ctx.globalAlpha = 0.85;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  const bottom = area.y + area.height;
  for (const [value, text] of ticks(view.left, view.right, area.width / 70)) {
    const x = Math.round(view.x(value)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(x, area.y);
    ctx.lineTo(x, bottom);
    ctx.stroke();
    ctx.fillText(text, x, bottom + 5);
  }
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const [value, text] of ticks(view.bottom, view.top, area.height / 60)) {
    const y = Math.round(view.y(value)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(area.x, y);
    ctx.lineTo(area.x + area.width, y);
    ctx.stroke();
    ctx.fillText(text, area.x - 5, y);
  }
  ctx.globalAlpha = 1;
  ctx.font = `13px ${theme.font}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "bottom";
  ctx.fillText(data.axes[0], area.x + area.width / 2, bottom + 37);
  ctx.save();
  ctx.translate(1, area.y + area.height / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.textBaseline = "top";
  ctx.fillText(data.axes[1], 0, 0);
  ctx.restore();
}

function drawMarks(plane) {
  const { view, ratio, marks, index, data, theme } = plane, { area } = view;
  const began = performance.now();
  marks.resize(Math.max(1, Math.round(area.width * ratio)), Math.max(1, Math.round(area.height * ratio)));
  plane.marksView = view.copy();
  const colour = plane.slot("colour");
  const pictures = plane.picturesShown();
  if (!index || !colour || !data.layers.points || pictures) {
    marks.clear();
    marks.show();
    plane.drawnAs = pictures ? "images" : "nothing";
  } else {
    const kx = view.scaleX * ratio, ky = -view.scaleY * ratio;
    plane.drawnAs = paintPoints(
      marks, index, view, [kx, -view.left * kx], [ky, -view.top * ky], colour.codes, colour.palette,
      colour.names.length > 0 || !colour.title, plane.slot("group")?.members, ratio, theme.inkRgb,
    );
  }
  if (data.layers.ellipses && plane.hasSpread) drawEllipses(plane);
  plane.marksCost = performance.now() - began;
}

// Every visible sample's own Gaussian, on the sheet of marks, which is drawn once a rest.
function drawEllipses(plane) {
  const { view, ratio, marks, theme } = plane, { ctx } = marks;
  const rows = rowsIn(plane.index, view, MOST_ELLIPSES);
  plane.ellipsesDrawn = rows.length <= MOST_ELLIPSES;
  if (!plane.ellipsesDrawn) return;
  ctx.save();
  ctx.setTransform(ratio, 0, 0, ratio, -view.area.x * ratio, -view.area.y * ratio);
  ctx.strokeStyle = theme.prior;
  ctx.globalAlpha = 0.6;
  ctx.lineWidth = 0.8;
  ctx.beginPath();
  for (const row of rows) traceEllipse(ctx, plane, row, 1);
  ctx.stroke();
  ctx.restore();
}

const TURN = Array.from({ length: 49 }, (_, k) => [Math.cos((k * Math.PI) / 24), Math.sin((k * Math.PI) / 24)]);

function traceEllipse(ctx, { view, points }, row, radius) {
  const { x, y, sd_x: sx, sd_y: sy, rho } = points;
  const r = rho.length ? rho[row] : 0, rest = Math.sqrt(1 - r * r);
  for (let k = 0; k < TURN.length; k++) {
    const [c, s] = TURN[k];
    const px = view.x(x[row] + radius * sx[row] * c), py = view.y(y[row] + radius * sy[row] * (r * c + rest * s));
    if (k) ctx.lineTo(px, py);
    else ctx.moveTo(px, py);
  }
}

// The upper canvas, redrawn at every movement: it holds a dozen strokes at most.
function drawAbove(plane) {
  const { above: ctx, view, theme, ratio, points } = plane, { area } = view;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, plane.width, plane.height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(area.x, area.y, area.width, area.height);
  ctx.clip();
  const chosen = plane.data.selected;
  if (points && chosen != null && chosen < points.x.length) drawSample(plane, chosen, theme.kl, true);
  if (points && plane.pointed >= 0 && plane.pointed !== chosen) drawSample(plane, plane.pointed, theme.ink, false);
  if (plane.cursor) {
    const x = view.x(plane.cursor[0]), y = view.y(plane.cursor[1]);
    for (const [colour, width] of [[theme.ground, 4], [theme.ink, 1.5]]) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        ctx.moveTo(x + 5 * dx, y + 5 * dy);
        ctx.lineTo(x + 13 * dx, y + 13 * dy);
      }
      ctx.stroke();
    }
  }
  if (plane.loop.length) {
    ctx.strokeStyle = theme.ink;
    ctx.fillStyle = theme.prior;
    ctx.lineWidth = 1.5;
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    for (const [x, y] of plane.loop) ctx.lineTo(view.x(x), view.y(y));
    ctx.closePath();
    ctx.stroke();
    ctx.globalAlpha = 0.12;
    ctx.fill();
  }
  ctx.restore();
}

function drawSample(plane, row, colour, strong) {
  const { above: ctx, view, points, theme } = plane;
  const x = view.x(points.x[row]), y = view.y(points.y[row]);
  if (plane.hasSpread) {
    ctx.strokeStyle = theme.kl;
    ctx.setLineDash(strong ? [] : [4, 3]);
    for (const [radius, width] of [[1, strong ? 2.5 : 1.8], [2, strong ? 1.5 : 1.2]]) {
      ctx.lineWidth = width;
      ctx.beginPath();
      traceEllipse(ctx, plane, row, radius);
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }
  for (const [stroke, width] of [[theme.ground, strong ? 6 : 5], [colour, strong ? 3 : 2]]) {
    ctx.strokeStyle = stroke;
    ctx.lineWidth = width;
    ctx.beginPath();
    ctx.arc(x, y, 8.5, 0, 2 * Math.PI);
    ctx.stroke();
  }
}
