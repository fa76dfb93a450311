// A film: rows of frames that the server has decoded into one sprite sheet, and a stage on which
// the chosen frame is drawn large. Dragging, arrow keys and playing draw from the sheet alone; the
// server hears of a place only when the hand lets go of it.

const PASS_MS = 2400; // one way through the frames while playing
const QUIET_MS = 450; // after the last key, a place counts as chosen
const THUMB_PX = 54; // the least width of a frame on a strip

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const root = parentElement.querySelector(".film");
  root.film ??= new Film(root);
  root.film.send = (place) => setStateValue("place", place);
  root.film.show(data);
  return () => root.film.leave();
}

function element(tag, className, parent, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
}

class Film {
  constructor(root) {
    this.root = root;
    this.active = 0;
    this.playing = false;
    this.request = 0;
    this.resized = new ResizeObserver(() => this.measure());
    this.seen = new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting));
    this.seen.observe(root);
  }

  // New data, or the same after a change of theme.
  async show(data) {
    if (this.data?.id === data.id) return this.paint();
    this.pending = data.id;
    const image = new Image();
    image.src = data.sheet;
    await image.decode();
    const sheet = await createImageBitmap(image);
    if (this.pending !== data.id) return; // a newer sheet has come meanwhile
    const alike = this.data?.shape === data.shape; // the same rows and tracks
    this.sheet = sheet;
    this.data = data;
    // A film of the same kind keeps its rows, so that focus and the hand's place survive new data.
    if (!alike) this.build();
    else this.fill();
    this.at = data.rows.map((row) => row.at);
    this.active = Math.min(this.active, data.rows.length - 1);
    this.measure();
    this.root.dataset.film = data.id;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (data.play && !still && !alike) this.play(true);
  }

  build() {
    const { data, root } = this;
    this.resized.disconnect();
    root.replaceChildren();
    root.classList.toggle("single", data.rows.length === 1);
    root.classList.toggle("linked", data.linked);
    root.setAttribute("role", "group");
    const stage = element("div", data.linked ? "stage pair" : "stage", root);
    const views = element("div", "views", stage);
    this.views = (data.linked ? data.rows : [data.rows[0]]).map(() => {
      const view = element("div", "view", views);
      const canvas = element("canvas", "", view);
      canvas.setAttribute("role", "img");
      return { canvas, name: element("span", "name", view) };
    });
    const side = element("div", "", stage);
    this.caption = element("div", "caption", side);
    const controls = element("div", "controls", side);
    this.button = element("button", "", controls, "Play");
    this.button.type = "button";
    this.button.onclick = () => this.play(!this.playing);
    const rows = element("div", "rows", root);
    this.rows = data.rows.map((_, index) => this.row(index, rows));
    this.tracks = data.tracks.map((track) => this.track(track, rows));
    element("div", "hint", rows, data.hint);
    this.fill();
  }

  row(index, parent) {
    const box = element("div", "row", parent);
    const head = element("div", "head", box);
    const strip = element("div", "strip", box);
    const canvas = element("canvas", "", strip);
    canvas.ariaHidden = true;
    const mark = element("div", "mark", strip);
    const playhead = element("div", "playhead", strip);
    strip.tabIndex = 0;
    strip.setAttribute("role", "slider");
    const place = (event) => {
      const share = (event.clientX - this.left) / this.width;
      this.go(index, Math.floor(share * this.data.frames));
    };
    strip.onpointerdown = (event) => {
      if (event.button > 0) return;
      this.play(false);
      this.measureLeft(strip);
      strip.setPointerCapture(event.pointerId);
      place(event);
    };
    strip.onpointermove = (event) => strip.hasPointerCapture(event.pointerId) && place(event);
    strip.onpointerup = () => this.commit();
    strip.onfocus = () => this.go(index, this.at[index]);
    strip.onkeydown = (event) => this.key(event, index);
    this.resized.observe(strip);
    return { box, head, strip, canvas, mark, playhead };
  }

  track(track, parent) {
    const box = element("div", "track", parent);
    const head = element("div", "head", box);
    const plot = element("div", "plot", box);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    plot.append(svg);
    const cursor = element("div", "cursor", plot);
    return { head, svg, cursor };
  }

  // Writes what depends on the data alone.
  fill() {
    const { data } = this;
    this.root.setAttribute("aria-label", data.label);
    const crisp = data.height < THUMB_PX * 2;
    for (const { canvas } of this.views) {
      canvas.width = data.width;
      canvas.height = data.height;
      canvas.classList.toggle("crisp", crisp);
    }
    this.rows.forEach(({ head, strip, mark }, index) => {
      const row = data.rows[index];
      head.replaceChildren();
      element("span", "name", head, row.name);
      for (const note of row.notes) element("span", "note", head, note);
      strip.setAttribute("aria-label", [row.name, ...row.notes].join(", "));
      strip.setAttribute("aria-valuemin", 0);
      strip.setAttribute("aria-valuemax", data.frames - 1);
      mark.hidden = row.mark === null;
      mark.style.left = `${100 * row.mark}%`;
    });
    this.tracks.forEach((parts, index) => this.fillTrack(parts, data.tracks[index]));
  }

  fillTrack({ head, svg }, track) {
    const last = this.data.frames;
    svg.setAttribute("viewBox", `0 0 ${last} 1`);
    svg.setAttribute("aria-label", track.alt);
    svg.replaceChildren();
    head.replaceChildren();
    element("span", "name", head, track.name);
    element("span", "note", head, track.range);
    if (track.usual_text) element("span", "note", head, track.usual_text);
    const span = track.high - track.low || 1;
    const line = (points, colour, dashes) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const places = points.map(([x, value]) => `${x} ${1 - (value - track.low) / span}`);
      path.setAttribute("d", `M${places.join("L")}`);
      path.setAttribute("stroke", colour);
      path.setAttribute("stroke-dasharray", dashes);
      svg.append(path);
    };
    const usual = track.usual;
    if (usual !== null) line([[0, usual], [last, usual]], "currentColor", "1 5");
    track.values.forEach((values, row) => {
      line(values.map((value, i) => [i + 0.5, value]), track.colour, row ? "6 4" : "none");
      const text = element("span", "value", head);
      element("span", row ? "key dashed" : "key", text).style.borderColor = track.colour;
      element("span", "", text);
    });
  }

  measure() {
    if (!this.data) return;
    this.width = this.rows[0].strip.clientWidth;
    if (this.width) this.paint();
  }

  measureLeft(strip) {
    this.left = strip.getBoundingClientRect().left + strip.clientLeft;
    this.width = strip.clientWidth;
  }

  // Draws the strips, which change with the data and the width alone.
  paint() {
    const { data } = this;
    const high = Math.max(this.rows[0].strip.clientHeight, 1);
    const least = Math.max((high * data.width) / data.height, 1);
    // As many frames as fit at their own proportions, so that none is squeezed.
    const count = Math.max(1, Math.min(data.frames, Math.round(this.width / least)));
    const density = Math.min(2, devicePixelRatio || 1);
    const crisp = data.height < high * density;
    this.rows.forEach(({ canvas }, row) => {
      canvas.width = Math.round(this.width * density);
      canvas.height = Math.round(high * density);
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = !crisp;
      pen.imageSmoothingQuality = "high";
      const wide = canvas.width / count;
      for (let slot = 0; slot < count; slot++) {
        const frame = Math.floor(((slot + 0.5) * data.frames) / count);
        const [x, y] = this.source(row, frame);
        // Cut the slot's middle out of the frame, keeping its proportions.
        const share = Math.min(1, wide / canvas.height / (data.width / data.height));
        const cut = data.width * share;
        const left = Math.round(slot * wide);
        // A pixel between frames shows the page, and so where one ends.
        pen.drawImage(this.sheet, x + (data.width - cut) / 2, y, cut, data.height,
          left, 0, Math.round((slot + 1) * wide) - left - (count > 1 ? density : 0), canvas.height);
      }
    });
    this.draw();
  }

  source(row, frame) {
    const { data } = this;
    const cell = row * data.frames + frame;
    return [(cell % data.columns) * data.width, Math.floor(cell / data.columns) * data.height];
  }

  go(row, frame) {
    const { data } = this;
    this.active = row;
    const kept = Math.max(0, Math.min(data.frames - 1, frame));
    if (data.linked) this.at.fill(kept);
    else this.at[row] = kept;
    this.request ||= requestAnimationFrame(() => {
      this.request = 0;
      this.draw();
    });
  }

  // One drawn frame: the only work while a hand moves.
  draw() {
    const { data } = this;
    this.views.forEach(({ canvas, name }, index) => {
      const row = data.linked ? index : this.active;
      const frame = this.at[row];
      const [x, y] = this.source(row, frame);
      canvas.getContext("2d").drawImage(
        this.sheet, x, y, data.width, data.height, 0, 0, data.width, data.height);
      const text = `${data.rows[row].name}: ${data.rows[row].captions[frame]}`;
      canvas.setAttribute("aria-label", `The decoded image. ${text}`);
      name.textContent = data.rows[row].name;
    });
    this.caption.textContent = data.rows[this.active].captions[this.at[this.active]];
    this.rows.forEach(({ box, strip, playhead }, index) => {
      const frame = this.at[index];
      box.classList.toggle("active", index === this.active && data.rows.length > 1);
      playhead.style.transform = `translateX(${((frame + 0.5) / data.frames) * this.width}px)`;
      strip.setAttribute("aria-valuenow", frame);
      strip.setAttribute("aria-valuetext", data.rows[index].captions[frame]);
    });
    this.tracks.forEach(({ head, cursor }, index) => {
      const frame = this.at[0];
      cursor.style.transform = `translateX(${((frame + 0.5) / data.frames) * this.width}px)`;
      head.querySelectorAll(".value > :last-child").forEach((value, row) => {
        value.textContent = data.tracks[index].shown[row][frame];
      });
    });
    this.root.dataset.row = this.active;
    this.root.dataset.frame = this.at[this.active];
  }

  key(event, row) {
    const last = this.data.frames - 1;
    const at = this.at[row];
    const to = {
      ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
      PageUp: at + 5, PageDown: at - 5, Home: 0, End: last,
    }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") this.play(!this.playing);
    else if (event.key === "Enter") this.commit();
    else if (to === undefined) return;
    else {
      this.play(false);
      this.go(row, to);
      clearTimeout(this.quiet);
      this.quiet = setTimeout(() => this.commit(), QUIET_MS);
    }
    event.preventDefault();
  }

  play(on) {
    if (on === this.playing) return;
    this.playing = on;
    this.button.textContent = on ? "Pause" : "Play";
    if (!on) return;
    const swing = 2 * Math.max(1, this.data.frames - 1);
    let phase = this.at[this.active];
    let before = performance.now();
    const step = (now) => {
      if (!this.playing) return;
      const { frames } = this.data;
      // What nobody sees stands still.
      if (this.visible) phase = (phase + ((now - before) * frames) / PASS_MS) % swing;
      before = now;
      const place = Math.round(phase) % swing;
      const frame = place < frames ? place : swing - place;
      if (frame !== this.at[this.active]) this.go(this.active, frame);
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  commit() {
    clearTimeout(this.quiet);
    if (!this.data.commits) return;
    const place = { film: this.data.id, row: this.active, frame: this.at[this.active] };
    this.send(place);
  }

  leave() {
    this.playing = false;
    clearTimeout(this.quiet);
    this.resized.disconnect();
    this.seen.disconnect();
  }
}
