// Marks on pixels: tens of thousands of points in a frame are written into typed image data.

const DENSITY_ABOVE = 150_000; // More visible points than this are drawn as a density.
const STAMPS_UPTO = 6_000; // Fewer than this have shapes and smooth edges.

const polygon = (corners, turn = 0, inner = 1) => (ctx, r) => {
  const count = inner === 1 ? corners : 2 * corners;
  for (let k = 0; k < count; k++) {
    const angle = turn - Math.PI / 2 + (2 * Math.PI * k) / count;
    const reach = k % 2 && inner !== 1 ? r * inner : r;
    ctx.lineTo(reach * Math.cos(angle), reach * Math.sin(angle));
  }
  ctx.closePath();
};
const bars = (turn) => (ctx, r) => {
  ctx.rotate(turn);
  ctx.rect(-r, -r / 3, 2 * r, (2 * r) / 3);
  ctx.rect(-r / 3, -r, (2 * r) / 3, 2 * r);
};
// One shape a class, so that colour is never the only sign.
const SHAPES = [
  (ctx, r) => ctx.arc(0, 0, 0.95 * r, 0, 2 * Math.PI),
  polygon(4, Math.PI / 4), polygon(4), bars(0), bars(Math.PI / 4),
  polygon(3), polygon(3, Math.PI), polygon(5), polygon(5, 0, 0.45), polygon(6),
];

// Colours repeat after ten classes, and then with other shapes.
const shapeOf = (code) => (code + 3 * Math.floor(code / SHAPES.length)) % SHAPES.length;

function fillShape(ctx, shape, x, y, r) {
  ctx.save();
  ctx.translate(x, y);
  ctx.beginPath();
  SHAPES[shape](ctx, r);
  ctx.fill();
  ctx.restore();
}

function smallCanvas(size) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  return canvas;
}

// The coverage of a shape, 0 to 255, on a small square of pixels.
function makeStamp(shape, radius) {
  const size = 2 * Math.ceil(radius) + 3;
  const ctx = smallCanvas(size).getContext("2d", { willReadFrequently: true });
  fillShape(ctx, shape, size / 2, size / 2, radius);
  const rgba = ctx.getImageData(0, 0, size, size).data;
  const cover = new Uint8Array(size * size);
  for (let k = 0; k < cover.length; k++) cover[k] = rgba[4 * k + 3];
  return { size, cover };
}

// Pixels that marks are written into, and the canvas that shows them.
class Sheet {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.ctx = this.canvas.getContext("2d");
  }

  resize(width, height) {
    if (this.image?.width === width && this.image?.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.image = this.ctx.createImageData(width, height);
    this.words = new Uint32Array(this.image.data.buffer);
  }

  clear() { this.words.fill(0); }
  show() { this.ctx.putImageData(this.image, 0, 0); }
}

const word = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

// Draws points into a sheet. Returns how: "shapes", "dots" or "density".
//   toX, toY: device pixel = k * value + m, as pairs [k, m]
//   codes: the palette's entry of each point; member: 1 for points of the group, or none
function paintPoints(sheet, index, window, toX, toY, codes, palette, shapes, member, ratio, text) {
  sheet.clear();
  const visible = countIn(index, window);
  const job = { sheet, index, window, toX, toY, codes, palette, member };
  if (visible > DENSITY_ABOVE) paintDensity(job, Math.max(2, Math.round(2 * ratio)), text);
  else if (visible > STAMPS_UPTO) paintDots(job, Math.round((visible > 30_000 ? 2 : 3) * ratio));
  else paintStamps(job, shapes, (visible > 1_500 ? 3 : 3.8) * ratio, text);
  sheet.show();
  return visible > DENSITY_ABOVE ? "density" : visible > STAMPS_UPTO ? "dots" : "shapes";
}

function paintDots({ sheet, index, window, toX, toY, codes, palette, member }, size) {
  const { words, image: { width, height } } = sheet;
  const strong = Uint32Array.from(palette, (rgb) => word(rgb, 235));
  const faint = Uint32Array.from(palette, (rgb) => word(rgb, 42));
  const [kx, mx] = toX, [ky, my] = toY, half = size >> 1;
  for (const wanted of member ? [0, 1] : [1]) {
    const colours = wanted ? strong : faint;
    runsIn(index, window, (from, to) => {
      for (let k = from; k < to; k++) {
        const row = index.order[k];
        if (member && member[row] !== wanted) continue;
        const x = (kx * index.x[k] + mx - half) | 0, y = (ky * index.y[k] + my - half) | 0;
        if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
        const colour = colours[codes[row]];
        for (let line = y * width + x, end = line + size * width; line < end; line += width)
          for (let p = line; p < line + size; p++) words[p] = colour;
      }
    });
  }
}

function paintStamps({ sheet, index, window, toX, toY, codes, palette, member }, shapes, radius, text) {
  const { image: { data, width, height } } = sheet;
  const stamps = new Map();
  // Of a scale of colours one end is lost on any ground: there a dot has a rim.
  const rim = shapes ? undefined : makeStamp(0, radius + 0.9);
  const blend = ({ size, cover }, strength, x, y, r, g, b) => {
    const left = Math.round(x - size / 2), top = Math.round(y - size / 2);
    if (left < 0 || top < 0 || left + size > width || top + size > height) return;
    for (let v = 0, c = 0; v < size; v++) {
      for (let p = 4 * ((top + v) * width + left), u = 0; u < size; u++, p += 4, c++) {
        const over = (cover[c] / 255) * strength;
        if (!over) continue;
        const under = (data[p + 3] / 255) * (1 - over), all = over + under;
        data[p] = (r * over + data[p] * under) / all;
        data[p + 1] = (g * over + data[p + 1] * under) / all;
        data[p + 2] = (b * over + data[p + 2] * under) / all;
        data[p + 3] = 255 * all;
      }
    }
  };
  const [kx, mx] = toX, [ky, my] = toY;
  for (const wanted of member ? [0, 1] : [1]) {
    const strength = wanted ? 0.92 : 0.22;
    runsIn(index, window, (from, to) => {
      for (let k = from; k < to; k++) {
        const row = index.order[k], code = codes[row];
        if (member && member[row] !== wanted) continue;
        const shape = shapes ? shapeOf(code) : 0;
        if (!stamps.has(shape)) stamps.set(shape, makeStamp(shape, radius));
        const x = kx * index.x[k] + mx, y = ky * index.y[k] + my;
        if (rim) blend(rim, 0.45 * strength, x, y, ...text);
        blend(stamps.get(shape), strength, x, y, ...palette[code]);
      }
    });
  }
}

// How many points fall into each small square, in their mean colour; darker where there are more.
function paintDensity({ sheet, index, window, toX, toY, codes, palette, member }, size) {
  const { words, image: { width, height } } = sheet;
  const columns = Math.ceil(width / size), lines = Math.ceil(height / size);
  if (sheet.counts?.length !== columns * lines) {
    sheet.counts = new Uint32Array(columns * lines);
    sheet.red = new Uint32Array(columns * lines);
    sheet.green = new Uint32Array(columns * lines);
    sheet.blue = new Uint32Array(columns * lines);
  }
  const { counts, red, green, blue } = sheet;
  for (const part of [counts, red, green, blue]) part.fill(0);
  const colours = Uint8Array.from(palette.flat());
  const kx = toX[0] / size, mx = toX[1] / size, ky = toY[0] / size, my = toY[1] / size;
  let most = 1;
  runsIn(index, window, (from, to) => {
    for (let k = from; k < to; k++) {
      const row = index.order[k];
      if (member && !member[row]) continue;
      const x = kx * index.x[k] + mx, y = ky * index.y[k] + my;
      if (x < 0 || y < 0 || x >= columns || y >= lines) continue;
      const cell = (y | 0) * columns + (x | 0), colour = 3 * codes[row];
      if (++counts[cell] > most) most = counts[cell];
      red[cell] += colours[colour];
      green[cell] += colours[colour + 1];
      blue[cell] += colours[colour + 2];
    }
  });
  const scale = 1 / Math.log1p(most);
  for (let line = 0, cell = 0; line < lines; line++) {
    for (let column = 0; column < columns; column++, cell++) {
      const n = counts[cell];
      if (!n) continue;
      const alpha = (50 + 205 * Math.log1p(n) * scale) | 0;
      const colour = word([red[cell] / n, green[cell] / n, blue[cell] / n], alpha);
      const xEnd = Math.min(width, (column + 1) * size), yEnd = Math.min(height, (line + 1) * size);
      for (let y = line * size; y < yEnd; y++)
        for (let x = column * size; x < xEnd; x++) words[y * width + x] = colour;
    }
  }
}

// A canvas of small images: a lattice, or thumbnails in rows. Pixels are (image, C, H, W) bytes.
function tileSheet(pixels, count, columns, channels, height, width) {
  const canvas = document.createElement("canvas");
  canvas.width = columns * width;
  canvas.height = Math.max(1, Math.ceil(count / columns)) * height;
  const ctx = canvas.getContext("2d");
  const image = ctx.createImageData(canvas.width, canvas.height), { data } = image;
  const plane = height * width;
  const green = channels === 3 ? plane : 0, blue = 2 * green;
  for (let tile = 0; tile < count; tile++) {
    const left = (tile % columns) * width, top = Math.floor(tile / columns) * height;
    for (let v = 0, from = tile * channels * plane; v < height; v++) {
      for (let u = 0, to = 4 * ((top + v) * canvas.width + left); u < width; u++, from++, to += 4) {
        data[to] = pixels[from];
        data[to + 1] = pixels[from + green];
        data[to + 2] = pixels[from + blue];
        data[to + 3] = 255;
      }
    }
  }
  ctx.putImageData(image, 0, 0);
  return canvas;
}

// A canvas of one pixel a value, in one colour, as opaque as the value says (0 to 1).
function veil(values, side, rgb) {
  const canvas = smallCanvas(side), ctx = canvas.getContext("2d");
  const image = ctx.createImageData(side, side);
  for (let k = 0; k < values.length; k++) {
    image.data.set([...rgb, Math.round(255 * clamp(values[k], 0, 1))], 4 * k);
  }
  ctx.putImageData(image, 0, 0);
  return canvas;
}

function rgbOf(css) {
  const ctx = smallCanvas(1).getContext("2d");
  ctx.fillStyle = css;
  ctx.fillRect(0, 0, 1, 1);
  return [...ctx.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}
