// The plane: points that one can see through, pan, zoom, choose and circle, and what the decoder
// draws under the cursor. Python sends it; while a hand moves, nobody asks Python anything.

const RESTS = 140; // Milliseconds without movement after which slow marks are drawn anew.
const ASKS = 280; // Milliseconds of rest after which Python is asked for a finer window.
const MOST_PICTURES = 400; // Fewer visible points than this are shown as images.
const SMOOTH = 9; // Milliseconds that drawing all marks may take in every frame of a gesture.

const BUTTONS = [
  ["in", "+", "Zoom in (key +)"], ["out", "\u2212", "Zoom out (key \u2212)"],
  ["home", "\u2922", "Show everything (key 0)"],
  ["lasso", "\u25CC", "Circle a group: drag around it, or hold Shift and drag (key L)"],
  ["clear", "\u2715", "Forget the group (key Escape)"],
];

class Plane {
  constructor(root) {
    this.root = root;
    this.find = (name) => root.querySelector(`.${name}`);
    this.canvas = this.find("below");
    this.below = this.canvas.getContext("2d");
    this.above = this.find("above").getContext("2d");
    this.picture = this.find("picture").getContext("2d");
    this.marks = new Sheet();
    this.loop = [];
    this.acts = [];
    this.pointed = -1;
    this.versions = {};
    this.hands = new Hands(this, this.find("above"));
    this.makeButtons();
    this.watch();
  }

  makeButtons() {
    const acts = {
      in: () => this.zoomBy(1.4), out: () => this.zoomBy(1 / 1.4), home: () => this.home(),
      lasso: () => this.setLasso(!this.lassoing), clear: () => this.clear(),
    };
    for (const [name, sign, title] of BUTTONS) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: sign, title, className: name });
      button.setAttribute("aria-label", title);
      button.addEventListener("click", acts[name]);
      this.find("tools").append(button);
    }
  }

  // Sizes, and the theme: a colour that takes a moment to change tells when it has changed.
  watch() {
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.find("stage"));
    this.find("stage").addEventListener("transitionend", () => { this.theme = undefined; this.request(true); });
  }

  stop() {
    this.sizes.disconnect();
    this.room?.listeners.delete(this.listen);
    clearTimeout(this.restTimer);
    clearTimeout(this.askTimer);
    cancelAnimationFrame(this.frame);
  }

  update(data, send) {
    this.send = send;
    const moved = !this.data || this.data.geometry !== data.geometry;
    this.data = data;
    this.acts = this.acts.filter(({ number }) => number > data.answered);
    if (this.room !== roomOf(data.plane)) {
      this.room?.listeners.delete(this.listen);
      this.room = roomOf(data.plane);
      this.listen = () => this.receive();
      this.room.listeners.add(this.listen);
    }
    if (!this.view || moved) {
      const fresh = !this.view;
      this.view = new View(data.home, data.whole, data.equal);
      // On coming back from another screen the window is the one that was left.
      if (fresh && data.start) {
        [this.view.left, this.view.bottom, this.view.right, this.view.top] = data.start;
        this.asked = data.start.join();
      }
      this.cursor = undefined;
      this.pointed = -1;
    }
    this.view.setHome(data.home, data.whole);
    const canvas = this.find("above");
    canvas.setAttribute("aria-label", data.alt);
    this.find("tools").classList.toggle("grouped", Boolean(data.versions.group));
    this.root.querySelector("button.lasso").hidden = !data.loops;
    this.find("side").hidden = !data.side;
    this.root.classList.toggle("wide", !data.side);
    this.find("picture").hidden = !data.versions.coarse;
    if (!data.versions.group) this.loop = [];
    this.resize();
    this.receive();
  }

  // Tells Python what was done. Of two events that wait for one run Streamlit keeps the later alone:
  // so each is told again with the next, until Python has answered it.
  tell(name, value) {
    this.told = Math.max(Date.now(), this.told ?? 0, this.data.answered) + 1;
    this.acts.push({ number: this.told, name, value });
    this.send("acts", [...this.acts]);
  }

  // Takes what the stores hold, of the versions that belong to this view.
  receive() {
    const points = this.slot("points");
    if (points && points !== this.points) {
      this.points = points;
      this.index = makeIndex(points.x, points.y);
      this.hasSpread = points.sd_x.length > 0;
    }
    for (const name of ["coarse", "fine", "thumbnails"]) {
      const found = this.slot(name);
      if (!found || found.canvas) continue;
      found.columns = name === "thumbnails" ? Math.ceil(Math.sqrt(found.count)) : found.side;
      found.canvas = tileSheet(found.pixels, found.count, found.columns, found.channels, found.height, found.width);
    }
    const group = this.slot("group");
    if (group) this.loop = [];
    showLegend(this);
    const wanted = Object.entries(this.data.versions).filter(([, version]) => version);
    const complete = wanted.every(([name]) => this.slot(name));
    this.find("stage").dataset.ready = complete;
    this.request(true);
    if (complete) this.ask();
  }

  slot(name) {
    const version = this.data?.versions[name];
    const found = version && this.room.slots.get(name);
    return found?.version === version ? found : undefined;
  }

  lattices() { return ["coarse", "fine"].map((name) => this.slot(name)).filter(Boolean); }

  picturesShown() {
    const found = this.slot("thumbnails");
    if (!found || !this.index || !this.slot("colour") || !this.data.layers.images || this.view.isHome) return false;
    const rows = rowsIn(this.index, this.view, MOST_PICTURES);
    if (rows.length > MOST_PICTURES) return false;
    found.known ??= new Set(found.rows);
    return rows.every((row) => found.known.has(row));
  }

  resize() {
    const stage = this.find("stage");
    const { width, height } = stage.getBoundingClientRect();
    if (!width || !this.view) return;
    const ratio = Math.min(2, globalThis.devicePixelRatio || 1);
    if (width !== this.width || height !== this.height || ratio !== this.ratio) {
      Object.assign(this, { width, height, ratio });
      for (const name of ["below", "above"]) {
        this.find(name).width = Math.round(width * ratio);
        this.find(name).height = Math.round(height * ratio);
      }
    }
    this.view.setArea({ x: 48, y: 8, width: Math.max(20, width - 58), height: Math.max(20, height - 50) });
    this.request(true);
  }

  readTheme() {
    const style = getComputedStyle(this.find("stage"));
    const read = (name, other) => style.getPropertyValue(name).trim() || other;
    const ink = style.color, ground = read("--st-background-color", "#fff");
    this.theme = {
      key: ink + ground, ink, ground, inkRgb: rgbOf(ink), font: style.fontFamily,
      line: this.data.colours.line, prior: this.data.colours.prior, kl: this.data.colours.kl,
    };
  }

  request(below = false) {
    this.belowIsOld ||= below;
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = undefined;
    if (!this.data || !this.width) return;
    const began = performance.now();
    if (!this.theme) this.readTheme();
    if (this.belowIsOld) {
      drawBelow(this, this.moving && this.marksCost > SMOOTH);
      this.belowIsOld = false;
    }
    this.read();
    drawAbove(this);
    this.cost = performance.now() - began;
  }

  // What lies under the cursor: the decoded place, the sample, the words.
  read() {
    this.find("where").textContent = "";
    const { cursor, view } = this;
    if (cursor && this.index && !this.loop.length) {
      this.pointed = nearestTo(this.index, ...cursor, view.scaleX, view.scaleY, 14);
    }
    if (!this.data.side) return showTip(this);
    const at = cursor ?? (this.points && this.data.selected != null ? this.placeOf(this.data.selected) : undefined);
    this.showDecoded(at);
    this.find("where").textContent = at ? describePlace(this, at, cursor) : "";
    this.find("what").textContent = describeSample(this, this.pointed >= 0 ? this.pointed : this.data.selected);
    return showTip(this);
  }

  placeOf(row) { return row < this.points.x.length ? [this.points.x[row], this.points.y[row]] : undefined; }

  // The finest decoded cell that holds a place.
  cellAt([x, y]) {
    for (const sheet of this.lattices().reverse()) {
      const [left, bottom, right, top] = sheet.window;
      const column = Math.floor(((x - left) / (right - left)) * sheet.side);
      const row = Math.floor(((top - y) / (top - bottom)) * sheet.side);
      if (column >= 0 && row >= 0 && column < sheet.side && row < sheet.side) return { sheet, row, column };
    }
    return undefined;
  }

  showDecoded(at) {
    const cell = at && this.cellAt(at), { canvas } = this.picture;
    this.cell = cell;
    if (!cell) {
      this.picture.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const { width, height } = cell.sheet;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.aspectRatio = `${width} / ${height}`;
    }
    this.picture.drawImage(cell.sheet.canvas, cell.column * width, cell.row * height, width, height, 0, 0, width, height);
  }

  probe(px, py) {
    this.cursor = this.view.place(px, py);
    this.request();
  }

  leave() {
    this.cursor = undefined;
    this.pointed = -1;
    this.request();
  }

  // A movement of the view; slow marks and Python wait until it rests.
  moved() {
    this.moving = true;
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => {
      this.moving = false;
      this.request(true);
    }, RESTS);
    this.request(true);
    this.ask();
  }

  // Asks for the window that is shown where what is here is too coarse for it.
  ask() {
    clearTimeout(this.askTimer);
    this.askTimer = setTimeout(() => {
      const { view, data } = this;
      if (this.asked && view.isHome) {
        this.asked = undefined;
        this.tell("view", []);
      }
      if (!data.refines || view.isHome || (view.zoom < 1.3 && view.zoom > 0.77)) return;
      const window = [view.left, view.bottom, view.right, view.top];
      const fine = this.slot("fine") ?? this.slot("thumbnails");
      if (fine && this.covers(fine.window, window)) return;
      const asked = window.join();
      if (asked === this.asked) return;
      this.asked = asked;
      this.tell("view", window);
    }, ASKS);
  }

  // Whether a decoded window holds the view, and is not much larger than it.
  covers([left, bottom, right, top], view) {
    const slack = 1e-6 * (right - left);
    return view[0] >= left - slack && view[1] >= bottom - slack && view[2] <= right + slack
      && view[3] <= top + slack && right - left < 2.2 * (view[2] - view[0]);
  }

  choose(px, py) {
    const [x, y] = this.view.place(px, py);
    this.pick(nearestTo(this.index, x, y, this.view.scaleX, this.view.scaleY, 22));
  }

  chooseAtCursor() {
    if (!this.cursor) return;
    this.pick(nearestTo(this.index, ...this.cursor, this.view.scaleX, this.view.scaleY, 2 * this.width));
  }

  pick(row) {
    if (row < 0 || row === this.data.selected) return;
    this.data.selected = row; // Shown at once; Python follows.
    this.say(`Chosen: ${describeSample(this, row)}`);
    this.request();
    this.tell("pick", row);
  }

  setLasso(on) {
    if (!this.data.loops) return;
    this.lassoing = on;
    this.loop = [];
    const button = this.root.querySelector("button.lasso");
    button.setAttribute("aria-pressed", String(on));
    this.find("above").style.cursor = on ? "crosshair" : "";
    if (on) this.say("Circle a group: drag, or move with the arrows, drop corners with Space, close with Enter.");
    this.request();
  }

  drawLoop(at) {
    const place = this.view.place(...at), last = this.loop.at(-1);
    const far = Math.hypot(this.view.x(last[0]) - at[0], this.view.y(last[1]) - at[1]);
    if (far > 3 && this.loop.length < 1_500) this.loop.push(place);
    this.request();
  }

  addCorner() {
    if (!this.cursor) return;
    this.loop.push(this.cursor);
    this.say(`Corner ${this.loop.length}`);
    this.request();
  }

  closeLoop() {
    const corners = this.loop;
    this.setLasso(false);
    if (corners.length < 3) return this.request();
    this.loop = corners; // Stays until Python has answered with the group.
    this.request();
    return this.tell("loop", corners);
  }

  clear() {
    this.setLasso(false);
    if (this.data.versions.group) this.tell("loop", []);
  }

  zoomBy(factor) {
    const at = this.cursor ?? this.view.place(this.view.area.x + this.view.area.width / 2, this.view.area.y + this.view.area.height / 2);
    this.view.zoomAt(this.view.x(at[0]), this.view.y(at[1]), factor);
    this.moved();
  }

  // The first view; where that leaves out a few far points, pressed there again everything.
  home() {
    if (this.view.isHome) this.view.showWhole();
    else this.view.reset();
    this.moved();
  }

  // The points that lie beyond the first view, while it is shown.
  beyond() {
    if (!this.index || !this.view.isHome || !this.view.hasFar) return { count: 0 };
    const window = Object.values(this.view.copy()).join();
    if (this.far?.index !== this.index || this.far.window !== window) {
      this.far = { index: this.index, window, count: this.index.n - countInside(this.index, this.view) };
    }
    return this.far;
  }

  // On reaching the plane by keyboard the cursor stands at the chosen sample.
  focus() {
    if (this.cursor || !this.points || !this.find("above").matches(":focus-visible")) return;
    this.cursor = (this.data.selected != null && this.placeOf(this.data.selected))
      || [(this.view.left + this.view.right) / 2, (this.view.bottom + this.view.top) / 2];
    this.request();
  }

  step(dx, dy) {
    if (!this.cursor) this.cursor = [(this.view.left + this.view.right) / 2, (this.view.bottom + this.view.top) / 2];
    const { view } = this, { area } = view;
    let [x, y] = [view.x(this.cursor[0]) + dx, view.y(this.cursor[1]) + dy];
    // At the border the view follows the cursor.
    const over = [x - clamp(x, area.x, area.x + area.width), y - clamp(y, area.y, area.y + area.height)];
    if (over[0] || over[1]) {
      view.panBy(-over[0], -over[1]);
      x = clamp(x - over[0], area.x, area.x + area.width);
      y = clamp(y - over[1], area.y, area.y + area.height);
      this.moved();
    }
    this.cursor = view.place(x, y);
    clearTimeout(this.sayTimer);
    this.sayTimer = setTimeout(() => {
      const [across, up] = this.data.names;
      const near = this.pointed >= 0 ? `; ${describeSample(this, this.pointed)}` : "";
      if (this.cursor) this.say(`${across} ${fmt(this.cursor[0], 2)}, ${up} ${fmt(this.cursor[1], 2)}${near}`);
    }, 400);
    this.request();
  }

  say(words) { this.find("voice").textContent = words.replaceAll("\n", ", "); }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".elb-plane");
  root.plane ??= new Plane(root);
  clearTimeout(root.ending);
  root.plane.update(data, setTriggerValue);
  return () => {
    // A plane that is only drawn anew keeps its view.
    root.ending = setTimeout(() => { root.plane?.stop(); root.plane = undefined; }, 50);
  };
}
