// What can lie under and among the marks: decoded images, densities, holes, lines and arrows.

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

// Each line's name stands at its end, or where "at" says, or else along it where nothing is.
function drawLineNames({ below: ctx, view, data, theme }, taken) {
  const { area } = view, right = area.x + area.width, foot = area.y + area.height;
  for (const { points, label, at = points.length - 1 } of data.lines) {
    if (!label) continue;
    ctx.font = `11px ${theme.font}`;
    const half = ctx.measureText(label).width / 2 + 6;
    const place = (k) => {
      const [x, y] = points[(k + points.length) % points.length].map((value, axis) => (axis ? view.y(value) : view.x(value)));
      const shown = x >= area.x - 1 && x <= right + 1 && y >= area.y - 1 && y <= foot + 1;
      // Whole.
      return shown ? [clamp(x, area.x + half, right - half), clamp(y, area.y + 12, foot - 12)] : undefined;
    };
    if (!place(at)) continue;
    const step = Math.max(1, Math.round(points.length / 48));
    const along = Array.from({ length: Math.ceil(points.length / 2 / step) }, (_, k) => place(at - k * step)).filter(Boolean);
    halo(ctx, theme, label, ...freePlace(taken, along, half, 8), "11px ");
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
  const longest = Math.max(found.width, found.height);
  const width = (size * found.width) / longest, height = (size * found.height) / longest;
  ctx.imageSmoothingEnabled = false;
  ctx.lineWidth = 2;
  for (const k of rows) {
    const x = Math.round(view.x(points.x[found.rows[k]]) - width / 2);
    const y = Math.round(view.y(points.y[found.rows[k]]) - height / 2);
    ctx.globalAlpha = !member || member[found.rows[k]] ? 1 : 0.3;
    ctx.drawImage(found.canvas, (k % found.columns) * found.width, Math.floor(k / found.columns) * found.height,
      found.width, found.height, x, y, width, height);
    // The image takes the dot's place, and its frame the dot's colour.
    ctx.strokeStyle = `rgb(${palette[codes[found.rows[k]]]})`;
    ctx.strokeRect(x, y, width, height);
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
