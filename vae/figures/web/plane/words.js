// What the plane says in words: of a place, of a sample, and what its colours mean.

function describePlace(plane, [x, y], hovered) {
  const [across, up] = plane.data.names;
  const words = [`${hovered ? "" : "At the chosen sample: "}${across} ${fmt(x, 2)}, ${up} ${fmt(y, 2)}`];
  const field = plane.slot("field");
  if (field) {
    const [left, bottom, right, top] = field.window;
    const column = Math.floor(((x - left) / (right - left)) * field.side);
    const row = Math.floor(((top - y) / (top - bottom)) * field.side);
    const known = column >= 0 && row >= 0 && column < field.side && row < field.side;
    if (known) words.push(`${field.title} ${fmt(field.values[row * field.side + column], 1)} nats`);
  }
  if (plane.lattices().length && !plane.cell) words.push("beyond the decoded window");
  return words.join("\n");
}

function describeSample(plane, row) {
  if (row == null || row < 0 || !plane.points) return "";
  const colour = plane.slot("colour"), words = [`${plane.data.noun} ${row}`];
  const { facts } = plane.points;
  if (plane.points.labels.length) words[0] += `: ${plane.points.names[plane.points.labels[row]] ?? "unlabelled"}`;
  for (const [k, fact] of facts.entries()) {
    words.push(`${fact.name} ${fmt(plane.points[`fact_${k}`][row], fact.digits)} ${fact.unit}`);
  }
  if (colour?.title && !colour.names.length && !facts.some((fact) => fact.name === colour.title))
    words.push(`${colour.title} ${fmt(colour.values[row], colour.digits)} ${colour.unit}`);
  return words.join("\n");
}

// Without a side panel the pointed sample's numbers stand beside it.
function showTip(plane) {
  const tip = plane.find("tip");
  tip.hidden = plane.data.side || plane.pointed < 0 || !plane.points;
  if (tip.hidden) return;
  tip.textContent = describeSample(plane, plane.pointed);
  const [x, y] = plane.placeOf(plane.pointed);
  tip.style.left = `${clamp(plane.view.x(x) + 14, 4, Math.max(4, plane.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${clamp(plane.view.y(y) + 14, 4, Math.max(4, plane.height - tip.offsetHeight - 4))}px`;
}

function showLegend(plane) {
  const colour = plane.slot("colour"), box = plane.find("legend");
  const key = colour && `${colour.version} ${plane.data.counts}`;
  if (!colour || box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren();
  const line = (className, ...parts) => {
    const element = document.createElement("div");
    element.className = className;
    element.append(...parts);
    box.append(element);
    return element;
  };
  if (!colour.names.length) {
    if (!colour.title) return;
    line("head", colour.unit ? `${colour.title}, ${colour.unit}` : colour.title);
    const stops = colour.palette.filter((_, k) => k % 16 === 0 && k < 255).map((rgb) => `rgb(${rgb})`);
    line("scale").style.background = `linear-gradient(to right, ${stops.join(",")})`;
    const { low, high, digits } = colour;
    line("ends", ...[low, (low + high) / 2, high].map((value, k) => {
      const end = document.createElement("span");
      end.textContent = (k === 0 && colour.clipped ? "\u2264 " : k === 2 && colour.clipped ? "\u2265 " : "") + fmt(value, digits);
      return end;
    }));
    return;
  }
  const names = line("names");
  colour.names.forEach((name, code) => {
    const entry = document.createElement("span"), sign = document.createElement("canvas");
    sign.width = sign.height = 28;
    const ctx = sign.getContext("2d");
    ctx.fillStyle = `rgb(${colour.palette[code]})`;
    fillShape(ctx, shapeOf(code), 14, 14, 10);
    entry.append(sign, name);
    names.append(entry);
  });
  // What scrolls is to be reached by keyboard.
  if (names.scrollHeight > names.clientHeight) Object.assign(names, { tabIndex: 0, role: "group", ariaLabel: "Classes" });
}
