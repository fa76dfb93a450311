// A button that copies the page's address, which restores the view.

export default function ({ parentElement, data }) {
  const button = parentElement.querySelector("button");
  const said = parentElement.querySelector("[role=status]");
  button.onclick = async () => {
    const copied = await copy(location.href);
    said.textContent = copied ? data.done : `Copy the browser's address: ${location.href}`;
    clearTimeout(button.timer);
    button.timer = setTimeout(() => (said.textContent = ""), copied ? 3000 : 15000);
  };
  return () => clearTimeout(button.timer);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without a secure address, browsers keep the clipboard to themselves: the old way may do.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}
