// The two canvases: below what stays while the pointer moves, above what follows it.

const MINUS = "\u2212";
const fmt = (value, digits) =>
  Number.isFinite(value) ? (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits).replace("-", MINUS) : "—";
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
  drawLineNames(plane);
  if (plane.data.layers.labels) {
    for (const { text, at } of plane.data.labels) halo(ctx, theme, text, view.x(at[0]), view.y(at[1]), "650 15px ");
  }
  drawNote(plane);
  ctx.restore();
  ctx.strokeStyle = theme.line;
  ctx.lineWidth = 1;
  ctx.strokeRect(area.x - 0.5, area.y - 0.5, area.width + 1, area.height + 1);
}

// What is not drawn one by one, and how to see it so.
function drawNote({ below: ctx, view: { area }, theme, data, drawnAs, ellipsesDrawn, points }) {
  const words = [];
  if (drawnAs === "density") {
    const count = points.x.length.toString().replace(/\B(?=(\d{3})+$)/g, "\u2009");
    words.push(`${count} ${data.noun}s, shown by how many lie where; zoom in for single ones`);
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

const SEEN = 24; // CSS pixels that an image of the lattice takes at least.

// The lattice is decoded finer than it could be seen: of each block its middle cell is drawn.
function drawLattice(plane) {
  const { below: ctx, view } = plane;
  ctx.imageSmoothingEnabled = false;
  for (const sheet of plane.lattices()) {
    const [left, bottom, right, top] = sheet.window, cell = (right - left) / sheet.side;
    let stride = 1;
    while (cell * stride * view.scaleX < SEEN && stride < sheet.side) stride += 2;
    const blocks = Math.max(1, Math.floor(sheet.side / stride));
    const margin = ((sheet.side - blocks * stride) / 2) * cell, tall = ((top - bottom) / sheet.side) * (margin / cell);
    const place = [view.x(left + margin), view.y(top - tall), view.x(right - margin), view.y(bottom + tall)].map(Math.round);
    const [x, y, width, height] = [place[0], place[1], place[2] - place[0], place[3] - place[1]];
    ctx.clearRect(x, y, width, height);
    ctx.globalAlpha = plane.data.layers.faint ? 0.4 : 1;
    ctx.drawImage(thinned(sheet, stride, blocks), x, y, width, height);
    ctx.globalAlpha = 1;
  }
}

function thinned(sheet, stride, blocks) {
  if (stride === 1) return sheet.canvas;
  sheet.thinned ??= new Map();
  if (!sheet.thinned.has(stride)) {
    const { width, height } = sheet, canvas = document.createElement("canvas");
    canvas.width = blocks * width;
    canvas.height = blocks * height;
    const ctx = canvas.getContext("2d"), first = ((sheet.side - blocks * stride) >> 1) + (stride >> 1);
    for (let row = 0; row < blocks; row++)
      for (let column = 0; column < blocks; column++)
        ctx.drawImage(sheet.canvas, (first + column * stride) * width, (first + row * stride) * height, width, height,
          column * width, row * height, width, height);
    sheet.thinned.set(stride, canvas);
  }
  return sheet.thinned.get(stride);
}

// The aggregate's density as a shade of ink, and holes as a hatching as dense as the prior is.
function drawVeils(plane) {
  const { below: ctx, view, theme, ratio } = plane;
  for (const name of ["density", "holes"]) {
    const found = plane.data.layers[name] && plane.slot("field");
    if (!found) continue;
    const [left, bottom, right, top] = found.window;
    const place = [view.x(left), view.y(top), (right - left) * view.scaleX, (top - bottom) * view.scaleY];
    found.veils ??= {};
    const key = `${name} ${theme.key}`;
    found.veils[key] ??= veil(found[name], found.side, theme.inkRgb);
    ctx.imageSmoothingEnabled = true;
    if (name === "density") {
      ctx.globalAlpha = 0.5;
      ctx.drawImage(found.veils[key], ...place);
      ctx.globalAlpha = 1;
      continue;
    }
    const sheet = (plane.hatched ??= document.createElement("canvas"));
    if (sheet.width !== plane.canvas.width || sheet.height !== plane.canvas.height) {
      sheet.width = plane.canvas.width;
      sheet.height = plane.canvas.height;
    }
    const hatch = sheet.getContext("2d");
    hatch.setTransform(ratio, 0, 0, ratio, 0, 0);
    hatch.globalCompositeOperation = "copy";
    hatch.imageSmoothingEnabled = true;
    hatch.drawImage(found.veils[key], ...place);
    hatch.globalCompositeOperation = "source-in";
    theme.hatch ??= hatch.createPattern(hatching(theme), "repeat");
    hatch.fillStyle = theme.hatch;
    hatch.fillRect(0, 0, plane.width, plane.height);
    ctx.drawImage(sheet, 0, 0, plane.width, plane.height);
  }
}

function hatching(theme) {
  const canvas = smallCanvas(8), ctx = canvas.getContext("2d");
  ctx.strokeStyle = theme.ink;
  ctx.lineWidth = 1.6;
  for (const shift of [-8, 0, 8]) {
    ctx.beginPath();
    ctx.moveTo(shift - 1, 9);
    ctx.lineTo(shift + 9, -1);
    ctx.stroke();
  }
  return canvas;
}

function drawLines({ below: ctx, view, data }) {
  for (const { points, colour, dash, width } of data.lines) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.setLineDash(dash ? [2, 3] : []);
    ctx.beginPath();
    for (const [x, y] of points) ctx.lineTo(view.x(x), view.y(y));
    ctx.stroke();
    ctx.setLineDash([]);
  }
}

function drawLineNames({ below: ctx, view, data, theme }) {
  for (const { points, label } of data.lines) {
    if (!label) continue;
    const [x, y] = points.at(-1);
    halo(ctx, theme, label, view.x(x), view.y(y), "11px ");
  }
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

function drawThumbnails(plane) {
  if (!plane.picturesShown()) return;
  const { below: ctx, view, points } = plane, found = plane.slot("thumbnails");
  const rows = [...found.rows.keys()].filter((k) => {
    const x = points.x[found.rows[k]], y = points.y[found.rows[k]];
    return x > view.left && x < view.right && y > view.bottom && y < view.top;
  });
  const room = Math.sqrt((view.area.width * view.area.height) / Math.max(rows.length, 1));
  const size = clamp(0.55 * room, 16, 56), member = plane.slot("group")?.members;
  const { codes, palette } = plane.slot("colour");
  ctx.imageSmoothingEnabled = false;
  ctx.lineWidth = 2;
  for (const k of rows) {
    const x = Math.round(view.x(points.x[found.rows[k]]) - size / 2);
    const y = Math.round(view.y(points.y[found.rows[k]]) - size / 2);
    ctx.globalAlpha = !member || member[found.rows[k]] ? 1 : 0.3;
    ctx.drawImage(found.canvas, (k % found.columns) * found.width, Math.floor(k / found.columns) * found.height,
      found.width, found.height, x, y, size, size);
    // The image takes the dot's place, and its frame the dot's colour.
    ctx.strokeStyle = `rgb(${palette[codes[found.rows[k]]]})`;
    ctx.strokeRect(x, y, size, size);
  }
  ctx.globalAlpha = 1;
}

function drawArrows(plane) {
  const field = plane.data.layers.arrows && plane.slot("arrows");
  if (!field) return;
  const { below: ctx, view, theme } = plane;
  ctx.strokeStyle = ctx.fillStyle = theme.ink;
  ctx.lineWidth = 1.1;
  ctx.globalAlpha = 0.8;
  for (let k = 0; k + 3 < field.ends.length; k += 4) {
    const x = view.x(field.ends[k]), y = view.y(field.ends[k + 1]);
    const dx = view.x(field.ends[k + 2]) - x, dy = view.y(field.ends[k + 3]) - y;
    const length = Math.hypot(dx, dy);
    ctx.beginPath();
    if (length < 1.5) {
      ctx.arc(x, y, 1.5, 0, 2 * Math.PI);
      ctx.fill();
      continue;
    }
    const head = Math.min(6, 0.6 * length), ux = dx / length, uy = dy / length;
    ctx.moveTo(x, y);
    ctx.lineTo(x + dx, y + dy);
    ctx.moveTo(x + dx - head * (ux - 0.5 * uy), y + dy - head * (uy + 0.5 * ux));
    ctx.lineTo(x + dx, y + dy);
    ctx.lineTo(x + dx - head * (ux + 0.5 * uy), y + dy - head * (uy - 0.5 * ux));
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
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
