// Rows of WebSocket messages (BSATN, little-endian) as the values that SQL answers carry.

const utf8 = new TextDecoder();

export class Reader {
  constructor(data) {
    this.data = data;
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.at = 0;
  }
  get left() { return this.data.length - this.at; }
  u8() { return this.data[this.at++]; }
  u32() { const value = this.view.getUint32(this.at, true); this.at += 4; return value; }
  take(length) { const part = this.data.subarray(this.at, this.at + length); this.at += length; return part; }
  blob() { return this.take(this.u32()); }
  string() { return utf8.decode(this.blob()); }
  list(read) { return Array.from({ length: this.u32() }, () => read(this)); }

  /** An integer of so many bytes; a number if it is a safe one. */
  integer(size, isSigned) {
    let value = 0n;
    const part = this.take(size);
    for (let at = size - 1; at >= 0; at--) value = (value << 8n) | BigInt(part[at]);
    if (isSigned) value = BigInt.asIntN(size * 8, value);
    return size <= 16 && value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER ? Number(value) : value;
  }

  /** A row list: 0 u16 | 1 [u64], then the rows' bytes. */
  rows(type) {
    if (this.u8() === 0) this.take(2);
    else this.take(8 * this.u32());
    const rows = new Reader(this.blob()), out = [];
    while (rows.left) out.push(rows.value(type));
    return out;
  }

  value(type) {
    switch (type.kind) {
      case 'bool': return this.u8() === 1;
      case 'string': return this.string();
      case 'bytes': return Array.from(this.blob(), byte => byte.toString(16).padStart(2, '0')).join('');
      case 'f32': { const value = this.view.getFloat32(this.at, true); this.at += 4; return shortest(value); }
      case 'f64': { const value = this.view.getFloat64(this.at, true); this.at += 8; return value; }
      case 'identity': return [hex(this.integer(32, false))];
      case 'connection': case 'uuid': return [this.integer(16, false)];
      case 'timestamp': case 'duration': return [this.integer(8, true)];
      case 'u256': return hex(this.integer(32, false));
      case 'i256': return hex(this.integer(32, true));
      case 'option': { const tag = this.u8(); return [tag, tag === 0 ? this.value(type.of) : []]; }
      case 'array': return this.list(() => this.value(type.of));
      case 'product': return type.fields.map(field => this.value(field.type));
      case 'sum': { const tag = this.u8(); return [tag, this.value(type.variants[tag].type)]; }
      default: return this.integer(Number(type.kind.slice(1)) / 8, type.kind[0] === 'i');
    }
  }
}

const hex = value => (value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`);

/** The number of fewest digits that is this 32-bit float. */
function shortest(value) {
  for (let digits = 6; digits < 10; digits++) {
    const shown = Number(value.toPrecision(digits));
    if (Math.fround(shown) === value) return shown;
  }
  return value;
}
