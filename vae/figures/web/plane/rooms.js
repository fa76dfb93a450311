// What the scripts that receive a plane's parts share with the one that draws it.

const stores = (globalThis.elboscopePlanes ??= new Map());

// The plane's room: its slots by name, and who is to be told when one changes.
function roomOf(id) {
  if (!stores.has(id)) stores.set(id, { slots: new Map(), listeners: new Set() });
  return stores.get(id);
}
