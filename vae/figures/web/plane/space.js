// Where points lie: an index by cells, and the window between data and pixels. No drawing here.

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Sorts points into square cells, so that a zoomed view visits only what it shows. Points without
// a place (NaN) are left out.
function makeIndex(xs, ys) {
  const n = xs.length;
  let [left, bottom, right, top] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < n; i++) {
    if (xs[i] < left) left = xs[i];
    if (xs[i] > right) right = xs[i];
    if (ys[i] < bottom) bottom = ys[i];
    if (ys[i] > top) top = ys[i];
  }
  const side = clamp(Math.round(Math.sqrt(n / 8)), 1, 256);
  const kx = side / Math.max(right - left, 1e-12), ky = side / Math.max(top - bottom, 1e-12);
  const cell = new Uint16Array(n), start = new Uint32Array(side * side + 1);
  let placed = 0;
  for (let i = 0; i < n; i++) {
    if (Number.isNaN(xs[i] + ys[i])) continue;
    placed++;
    const column = Math.min(side - 1, ((xs[i] - left) * kx) | 0);
    const row = Math.min(side - 1, ((ys[i] - bottom) * ky) | 0);
    cell[i] = row * side + column;
    start[cell[i] + 1]++;
  }
  for (let c = 0; c < side * side; c++) start[c + 1] += start[c];
  const next = start.slice(), order = new Uint32Array(placed);
  const x = new Float32Array(placed), y = new Float32Array(placed);
  for (let i = 0; i < n; i++) {
    if (Number.isNaN(xs[i] + ys[i])) continue;
    const place = next[cell[i]]++;
    order[place] = i;
    x[place] = xs[i];
    y[place] = ys[i];
  }
  return { n: placed, side, left, bottom, kx, ky, start, order, x, y };
}

// Calls visit(from, to) for each run of the index that a window touches.
function runsIn(index, window, visit) {
  const { side, left, bottom, kx, ky, start } = index;
  if (!index.n) return;
  const cell = (value, low, k) => Math.floor((value - low) * k);
  const c0 = cell(window.left, left, kx), c1 = cell(window.right, left, kx);
  const r0 = cell(window.bottom, bottom, ky), r1 = cell(window.top, bottom, ky);
  if (c1 < 0 || r1 < 0 || c0 > side || r0 > side) return;
  const from = clamp(c0, 0, side - 1), to = clamp(c1, 0, side - 1);
  for (let row = clamp(r0, 0, side - 1); row <= clamp(r1, 0, side - 1); row++) {
    const first = start[row * side + from], last = start[row * side + to + 1];
    if (last > first) visit(first, last);
  }
}

function countIn(index, window) {
  let count = 0;
  runsIn(index, window, (from, to) => { count += to - from; });
  return count;
}

// As countIn, but of the window alone rather than of the cells that it touches.
function countInside(index, { left, bottom, right, top }) {
  let count = 0;
  runsIn(index, { left, bottom, right, top }, (from, to) => {
    for (let k = from; k < to; k++)
      if (index.x[k] >= left && index.x[k] <= right && index.y[k] >= bottom && index.y[k] <= top) count++;
  });
  return count;
}

function rowsIn(index, window, most) {
  const rows = [];
  runsIn(index, window, (from, to) => {
    for (let k = from; k < to && rows.length <= most; k++) {
      const x = index.x[k], y = index.y[k];
      if (x >= window.left && x <= window.right && y >= window.bottom && y <= window.top)
        rows.push(index.order[k]);
    }
  });
  return rows;
}

// The point nearest to a place within a reach in pixels, or -1; scales are pixels per unit.
function nearestTo(index, x, y, scaleX, scaleY, reach) {
  let best = -1, least = reach * reach;
  const rx = reach / scaleX, ry = reach / scaleY;
  const window = { left: x - rx, right: x + rx, bottom: y - ry, top: y + ry };
  runsIn(index, window, (from, to) => {
    for (let k = from; k < to; k++) {
      const dx = (index.x[k] - x) * scaleX, dy = (index.y[k] - y) * scaleY;
      const square = dx * dx + dy * dy;
      if (square < least) { least = square; best = index.order[k]; }
    }
  });
  return best;
}

// A window on the data, and the area of the canvas that shows it, in CSS pixels.
class View {
  constructor(home, whole, equal) {
    this.equal = equal;
    this.area = { x: 0, y: 0, width: 1, height: 1 };
    this.setHome(home, whole);
    this.reset();
  }

  setHome(home, whole) {
    [this.home, this.whole] = [home, whole].map(([left, bottom, right, top]) => ({ left, bottom, right, top }));
  }

  reset() { Object.assign(this, this.home); this.fit(); }
  showWhole() { Object.assign(this, this.whole); this.fit(); }

  get hasFar() { return this.whole.left < this.home.left || this.whole.right > this.home.right; }

  get isHome() {
    const { left, right } = this.home;
    return Math.abs(this.right - this.left - (right - left)) < 1e-9 * (right - left)
      && Math.abs(this.left - left) < 1e-9 * (right - left);
  }

  get zoom() { return (this.home.right - this.home.left) / (this.right - this.left); }
  get scaleX() { return this.area.width / (this.right - this.left); }
  get scaleY() { return this.area.height / (this.top - this.bottom); }

  // Keeps one scale for both axes where that is asked for: height follows width.
  fit() {
    if (!this.equal) return;
    const half = ((this.right - this.left) * this.area.height) / this.area.width / 2;
    const middle = (this.bottom + this.top) / 2;
    this.bottom = middle - half;
    this.top = middle + half;
  }

  setArea(area) { this.area = area; this.fit(); }
  x(value) { return this.area.x + (value - this.left) * this.scaleX; }
  y(value) { return this.area.y + (this.top - value) * this.scaleY; }
  place(px, py) {
    return [this.left + (px - this.area.x) / this.scaleX, this.top - (py - this.area.y) / this.scaleY];
  }

  zoomAt(px, py, factor) {
    const wide = (this.home.right - this.home.left) / (this.right - this.left);
    const least = (0.5 * (this.home.right - this.home.left)) / (this.whole.right - this.whole.left);
    factor = clamp(wide * factor, least, 5000) / wide;
    const [x, y] = this.place(px, py);
    this.left = x - (x - this.left) / factor;
    this.right = x + (this.right - x) / factor;
    this.bottom = y - (y - this.bottom) / factor;
    this.top = y + (this.top - y) / factor;
    this.keepNear();
  }

  panBy(dx, dy) {
    const x = dx / this.scaleX, y = dy / this.scaleY;
    this.left -= x; this.right -= x;
    this.bottom += y; this.top += y;
    this.keepNear();
  }

  // The middle of the view never leaves the window that holds every point: nobody gets lost in empty space.
  keepNear() {
    const { whole } = this;
    const x = (this.left + this.right) / 2, y = (this.bottom + this.top) / 2;
    const dx = clamp(x, whole.left, whole.right) - x, dy = clamp(y, whole.bottom, whole.top) - y;
    this.left += dx; this.right += dx;
    this.bottom += dy; this.top += dy;
  }

  copy() { const { left, bottom, right, top } = this; return { left, bottom, right, top }; }
}
