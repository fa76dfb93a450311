// A drawing pad: mouse, pen and touch draw; arrow keys move a pen that the space bar lowers.
// Every finished stroke sends the whole picture as a PNG data URL.

const SIDE = 280;
const STEP = 7;

export default function ({ parentElement, data, setStateValue }) {
  const canvas = parentElement.querySelector("canvas");
  const [undo, clear] = parentElement.querySelectorAll("button");
  const colour = parentElement.querySelector("input");
  const said = parentElement.querySelector("[role=status]");
  // A rerun calls this again on the same elements: what was drawn stays.
  const pad = (canvas.pad ??= { strokes: [], stroke: null, at: [SIDE / 2, SIDE / 2], down: false });
  const tall = Math.round((SIDE * data.height) / data.width);
  const fresh = pad.paper === undefined;
  Object.assign(pad, { paper: data.paper, width: data.pen * SIDE });
  if (fresh) {
    canvas.width = SIDE;
    canvas.height = tall;
    colour.value = data.ink;
  }
  colour.parentElement.hidden = !data.colours;
  canvas.setAttribute("aria-label", data.alt);

  const paint = canvas.getContext("2d");
  function draw(cursor) {
    paint.globalAlpha = 1;
    paint.fillStyle = pad.paper;
    paint.fillRect(0, 0, canvas.width, canvas.height);
    paint.lineCap = paint.lineJoin = "round";
    for (const stroke of pad.strokes) {
      paint.strokeStyle = stroke.ink;
      paint.lineWidth = stroke.width;
      paint.beginPath();
      paint.moveTo(...stroke.points[0]);
      // A single point is a dot: a line of no length with round ends.
      for (const point of stroke.points) paint.lineTo(...point);
      paint.stroke();
    }
    if (cursor && !pad.down) {
      paint.strokeStyle = "#F2510C";
      paint.lineWidth = 2;
      paint.beginPath();
      paint.arc(...pad.at, pad.width / 2, 0, 2 * Math.PI);
      paint.stroke();
    }
    undo.disabled = clear.disabled = pad.strokes.length === 0;
  }
  function send(words) {
    draw(false);
    setStateValue("png", pad.strokes.length ? canvas.toDataURL("image/png") : "");
    said.textContent = words;
    draw(canvas.matches(":focus-visible"));
  }
  function begin(point) {
    pad.stroke = { ink: data.colours ? colour.value : data.ink, width: pad.width, points: [point] };
    pad.strokes.push(pad.stroke);
  }
  function end() {
    if (!pad.stroke) return;
    pad.stroke = null;
    send(`${pad.strokes.length} strokes`);
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const inner = [box.width - 2 * canvas.clientLeft, box.height - 2 * canvas.clientTop];
    return [
      ((event.clientX - box.left - canvas.clientLeft) / inner[0]) * canvas.width,
      ((event.clientY - box.top - canvas.clientTop) / inner[1]) * canvas.height,
    ];
  };

  canvas.onpointerdown = (event) => {
    if (event.button !== 0 || pad.stroke) return;
    canvas.setPointerCapture(event.pointerId);
    pad.pointer = event.pointerId;
    pad.at = place(event);
    begin(pad.at);
    draw(false);
  };
  canvas.onpointermove = (event) => {
    if (!pad.stroke || event.pointerId !== pad.pointer) return;
    // Fast strokes arrive several points at a time.
    for (const one of event.getCoalescedEvents?.() ?? [event]) pad.stroke.points.push(place(one));
    pad.at = place(event);
    draw(false);
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => {
    if (event.pointerId === pad.pointer) end();
  };

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.onkeydown = (event) => {
    if (event.key === " " || event.key === "Enter") {
      pad.down = !pad.down;
      if (pad.down) begin([...pad.at]);
      else end();
      if (pad.down) said.textContent = "Pen down";
    } else if (moves[event.key]) {
      const [across, down] = moves[event.key];
      pad.at = [
        Math.min(canvas.width, Math.max(0, pad.at[0] + STEP * across)),
        Math.min(canvas.height, Math.max(0, pad.at[1] + STEP * down)),
      ];
      if (pad.down) pad.stroke.points.push([...pad.at]);
    } else if ((event.key === "z" && (event.ctrlKey || event.metaKey)) || event.key === "Backspace") {
      undo.click();
    } else return;
    event.preventDefault();
    draw(true);
  };
  canvas.onfocus = () => draw(canvas.matches(":focus-visible"));
  canvas.onblur = () => {
    pad.down = false;
    end();
    draw(false);
  };
  undo.onclick = () => {
    pad.strokes.pop();
    send("Took back the last stroke");
  };
  clear.onclick = () => {
    pad.strokes = [];
    send("Cleared");
  };
  draw(false);
}
