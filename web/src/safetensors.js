// The safetensors format: a header that says where each tensor lies, and what the numbers of a tensor are like.
//
// A header comes from a torrent, so everything in it is checked: its length is bounded before it is read, and a tensor
// that lies outside the file is no tensor.

const HEADER_BYTES_MAX = 100 * 2 ** 20;
/** Bytes of one number, by type. */
const WIDTHS = {
  BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, U16: 2, I16: 2, F16: 2, BF16: 2, U32: 4, I32: 4, F32: 4, U64: 8, I64: 8, F64: 8,
};

const DIMENSIONS_MAX = 64;

/** The file is not what its name says. */
export class FormatError extends Error {}

/**
 * The tensors of a file of `length` bytes, in the order of their bytes: `{ name, dtype, shape, start, end }`, offsets in
 * the file. `read(start, end)` gives bytes of it.
 */
export async function readHeader(read, length) {
  if (length < 8) throw new FormatError("The file is too short for a safetensors header.");
  const first = await read(0, 8);
  const size = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  if (size > BigInt(HEADER_BYTES_MAX) || size > BigInt(length - 8)) throw new FormatError("This is no safetensors file: its header would be too long.");
  const text = await read(8, 8 + Number(size));
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch {
    throw new FormatError("This is no safetensors file: its header is no JSON.");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) throw new FormatError("This is no safetensors file: its header is no object.");
  const base = 8 + Number(size);
  const tensors = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: offsets } = entry ?? {};
    const isWhole = (n) => Number.isSafeInteger(n) && n >= 0;
    const isSound = typeof dtype === "string" && Array.isArray(shape) && shape.length <= DIMENSIONS_MAX && shape.every(isWhole)
      && Array.isArray(offsets) && offsets.length === 2 && offsets.every(isWhole) && offsets[0] <= offsets[1] && base + offsets[1] <= length;
    if (!isSound) throw new FormatError(`The header does not say where tensor “${name.slice(0, 80)}” lies.`);
    const width = Object.hasOwn(WIDTHS, dtype) ? WIDTHS[dtype] : 0;
    if (width && shape.reduce((a, b) => a * b, width) !== offsets[1] - offsets[0]) throw new FormatError(`Tensor “${name.slice(0, 80)}” has not as many bytes as its shape says.`);
    tensors.push({ name, dtype, shape, start: base + offsets[0], end: base + offsets[1] });
  }
  return tensors.sort((a, b) => a.start - b.start || a.end - b.end);
}

const table = (decode, size) => {
  let made;
  return () => (made ??= Float64Array.from({ length: size }, (_, bits) => decode(bits)));
};
const small = (exponentBits, mantissaBits, hasInfinity) => (bits) => {
  const sign = bits >> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (bits >> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = bits & (2 ** mantissaBits - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  const isTop = exponent === 2 ** exponentBits - 1;
  if (isTop && hasInfinity) return mantissa ? NaN : sign * Infinity;
  // E4M3 has no infinity, and one pattern that is no number.
  if (isTop && mantissa === 2 ** mantissaBits - 1) return NaN;
  const value = exponent ? (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - bias) : (mantissa / 2 ** mantissaBits) * 2 ** (1 - bias);
  return sign * value;
};
const half = table(small(5, 10, true), 65536);
const brain = table(small(8, 7, true), 65536);
const e4m3 = table(small(4, 3, false), 256);
const e5m2 = table(small(5, 2, true), 256);

/** The numbers of whole elements in `bytes`, which are copied so that they are aligned. */
function decode(dtype, bytes) {
  const buffer = bytes.slice().buffer;
  const through = (values, numbers) => { const known = numbers(); return { length: values.length, at: (i) => known[values[i]] }; };
  const plain = (values) => ({ length: values.length, at: (i) => Number(values[i]) });
  switch (dtype) {
    case "F64": return plain(new Float64Array(buffer));
    case "F32": return plain(new Float32Array(buffer));
    case "F16": return through(new Uint16Array(buffer), half);
    case "BF16": return through(new Uint16Array(buffer), brain);
    case "F8_E4M3": return through(new Uint8Array(buffer), e4m3);
    case "F8_E5M2": return through(new Uint8Array(buffer), e5m2);
    case "I64": return plain(new BigInt64Array(buffer));
    case "U64": return plain(new BigUint64Array(buffer));
    case "I32": return plain(new Int32Array(buffer));
    case "U32": return plain(new Uint32Array(buffer));
    case "I16": return plain(new Int16Array(buffer));
    case "U16": return plain(new Uint16Array(buffer));
    case "I8": return plain(new Int8Array(buffer));
    case "U8": case "BOOL": return plain(new Uint8Array(buffer));
    default: return null;
  }
}

/** Gathers what the numbers of a tensor are like, from its bytes in order, cut anywhere. */
export class Numbers {
  count = 0; min = Infinity; max = -Infinity; zeros = 0; strange = 0;
  #sum = 0; #squares = 0; #rest = new Uint8Array(0); #dtype; #width;
  constructor(dtype) { this.#dtype = dtype; this.#width = Object.hasOwn(WIDTHS, dtype) ? WIDTHS[dtype] : 0; }
  /** Whether the type is known. */
  get isKnown() { return this.#width > 0; }
  add(bytes) {
    if (!this.isKnown) return;
    if (this.#rest.length > 0) {
      const joined = new Uint8Array(this.#rest.length + bytes.length);
      joined.set(this.#rest);
      joined.set(bytes, this.#rest.length);
      bytes = joined;
    }
    const whole = bytes.length - bytes.length % this.#width;
    this.#rest = bytes.slice(whole);
    const values = decode(this.#dtype, bytes.subarray(0, whole));
    for (let i = 0; i < values.length; i += 1) {
      const value = values.at(i);
      if (!Number.isFinite(value)) { this.strange += 1; continue; }
      if (value < this.min) this.min = value;
      if (value > this.max) this.max = value;
      if (value === 0) this.zeros += 1;
      this.#sum += value;
      this.#squares += value * value;
    }
    this.count += values.length;
  }
  get mean() { return this.#sum / (this.count - this.strange); }
  get deviation() {
    return Math.sqrt(Math.max(0, this.#squares / (this.count - this.strange) - this.mean ** 2));
  }
}
