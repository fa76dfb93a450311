// Mouse, touch and keyboard. One finger probes, two move and zoom; a mouse drags and wheels.

const STILL = 5; // Pixels within which a press is a click.

class Hands {
  constructor(plane, canvas) {
    this.plane = plane;
    this.canvas = canvas;
    this.down = new Map();
    const on = (name, act, options) => canvas.addEventListener(name, act.bind(this), options);
    on("pointerdown", this.press);
    on("pointermove", this.move);
    on("pointerup", this.release);
    on("pointercancel", this.cancel);
    on("pointerleave", this.leave);
    on("wheel", this.wheel, { passive: false });
    on("keydown", this.key);
    on("dblclick", (event) => event.preventDefault());
    on("focus", () => plane.focus());
    on("blur", () => plane.leave());
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    if (event.button > 0) return;
    this.canvas.setPointerCapture?.(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    const at = this.at(event);
    this.down.set(event.pointerId, at);
    if (this.down.size > 1) {
      this.mode = "pinch";
      this.plane.loop = [];
      return;
    }
    this.began = at;
    const draws = this.plane.data.loops && (event.shiftKey || this.plane.lassoing);
    this.mode = draws ? "lasso" : "press";
    if (draws) this.plane.loop = [this.plane.view.place(...at)];
  }

  move(event) {
    const at = this.at(event), before = this.down.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") this.plane.probe(...at);
      return;
    }
    this.down.set(event.pointerId, at);
    if (this.mode === "pinch") return this.pinch(event.pointerId, before, at);
    if (this.mode === "lasso") return this.plane.drawLoop(at);
    const moved = Math.hypot(at[0] - this.began[0], at[1] - this.began[1]) > STILL;
    if (event.pointerType === "touch") {
      if (moved) this.mode = "probe";
      return this.plane.probe(...at);
    }
    if (moved || this.mode === "pan") {
      const from = this.mode === "pan" ? before : this.began;
      this.mode = "pan";
      this.canvas.style.cursor = "grabbing";
      this.plane.view.panBy(at[0] - from[0], at[1] - from[1]);
      this.plane.probe(...at);
      this.plane.moved();
    }
    return undefined;
  }

  pinch(id, before, at) {
    const [other] = [...this.down].filter(([key]) => key !== id).map(([, place]) => place);
    if (!other) return;
    const spread = ([x, y]) => Math.max(10, Math.hypot(x - other[0], y - other[1]));
    const middle = ([x, y]) => [(x + other[0]) / 2, (y + other[1]) / 2];
    const [from, to] = [middle(before), middle(at)];
    this.plane.view.panBy(to[0] - from[0], to[1] - from[1]);
    this.plane.view.zoomAt(...to, spread(at) / spread(before));
    this.plane.moved();
  }

  release(event) {
    const at = this.at(event), { mode } = this;
    if (!this.down.delete(event.pointerId)) return;
    this.canvas.style.cursor = "";
    if (mode === "pinch") {
      if (!this.down.size) this.mode = undefined;
      return;
    }
    this.mode = undefined;
    if (mode === "press") this.plane.choose(...at);
    if (mode === "lasso") this.plane.closeLoop();
  }

  cancel(event) {
    this.down.delete(event.pointerId);
    this.mode = undefined;
    this.plane.loop = [];
    this.plane.request();
  }

  leave(event) {
    if (event.pointerType !== "touch" && !this.down.size) this.plane.leave();
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    const step = clamp(event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016), -0.5, 0.5);
    const at = this.at(event);
    this.plane.view.zoomAt(...at, Math.exp(-step));
    this.plane.probe(...at);
    this.plane.moved();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { plane } = this, step = event.shiftKey ? 48 : 8;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) plane.step(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") plane.zoomBy(1.4);
    else if (event.key === "-" || event.key === "_") plane.zoomBy(1 / 1.4);
    else if (event.key === "0") plane.home();
    else if (event.key === "Enter") plane.lassoing ? plane.closeLoop() : plane.chooseAtCursor();
    else if (event.key === " ") plane.lassoing ? plane.addCorner() : plane.chooseAtCursor();
    else if (event.key === "l" || event.key === "L") plane.setLasso(!plane.lassoing);
    else if (event.key === "Escape") plane.clear();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
