// Keeps what Python sent for one slot of a plane, so that a plane whose colour or selection changes
// is not sent its points again: Streamlit repeats an unchanged message by its name alone.

const ARRAYS = { f4: Float32Array, u4: Uint32Array, u1: Uint8Array };

// The form that vae/figures/plane.py packs: length of the header, header, arrays on borders of 8.
function unpack(bytes) {
  const whole = bytes.slice(); // A copy starts on a border, as typed arrays must.
  const length = new DataView(whole.buffer).getUint32(0, true);
  const slot = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + length)));
  for (const { name, kind, start, count } of slot.arrays) {
    slot[name] = new ARRAYS[kind](whole.buffer, start, count);
  }
  return slot;
}

export default function ({ data, parentElement }) {
  if (!data) return undefined;
  const slot = unpack(data);
  if (parentElement.elboscopeVersion === slot.version) return parentElement.elboscopeForget;
  const room = roomOf(slot.plane);
  room.slots.set(slot.slot, slot);
  parentElement.elboscopeVersion = slot.version;
  parentElement.elboscopeForget = () => {
    parentElement.elboscopeVersion = undefined;
    if (room.slots.get(slot.slot) === slot) room.slots.delete(slot.slot);
  };
  for (const listener of room.listeners) listener();
  return parentElement.elboscopeForget;
}
