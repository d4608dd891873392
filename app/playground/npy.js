// Arrays in NumPy's .npy format, version 1.0: little-endian uint8 and float32, in C order.
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0];
const PREAMBLE = 10;
const ALIGNED = 64;

/** Return the file of a Uint8Array or Float32Array of a shape. */
export function npyOf(shape, data) {
  const kind = data instanceof Float32Array ? "<f4" : "|u1";
  const header = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
  const start = Math.ceil((PREAMBLE + header.length + 1) / ALIGNED) * ALIGNED;
  const file = new Uint8Array(start + data.byteLength);
  file.set(MAGIC);
  new DataView(file.buffer).setUint16(8, start - PREAMBLE, true);
  file.set(new TextEncoder().encode(`${header.padEnd(start - PREAMBLE - 1)}\n`), PREAMBLE);
  file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start);
  return file;
}

/** Return the shape and the data of a file, as the service writes them. */
export function arrayOf(buffer) {
  const start = PREAMBLE + new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(buffer.slice(PREAMBLE, start));
  const shape = /'shape': \(([\d, ]*)\)/.exec(header)[1].split(",").filter((n) => n.trim()).map(Number);
  const Kind = header.includes("'<f4'") ? Float32Array : Uint8Array;
  return { shape, data: new Kind(buffer.slice(start)) };
}
