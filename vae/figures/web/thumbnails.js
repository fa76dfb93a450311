// Thumbnails that are buttons: a click names the chosen one.
//
// data: {cells: [{id, src, caption, alt}], columns, chosen}
// trigger "picked": the id of the clicked cell.

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector(".elb-thumbs");
  if (!root) {
    root = document.createElement("div");
    root.className = "elb-gallery elb-thumbs";
    parentElement.append(root);
  }
  root.style.gridTemplateColumns = `repeat(${data.columns}, minmax(0, 1fr))`;
  root.style.maxWidth = `${data.columns * 7}rem`;
  root.replaceChildren(...data.cells.map((cell) => button(cell, data.chosen, setTriggerValue)));
}

function button(cell, chosen, setTriggerValue) {
  const image = Object.assign(document.createElement("img"), { src: cell.src, alt: cell.alt });
  const caption = document.createElement("span");
  caption.textContent = cell.caption;
  const made = document.createElement("button");
  made.type = "button";
  made.title = `Choose ${cell.alt}`;
  made.setAttribute("aria-pressed", String(cell.id === chosen));
  made.append(image, caption);
  made.onclick = () => setTriggerValue("picked", cell.id);
  return made;
}
