"""BSATN written as plainly as possible from the algebraic type alone, to compare the generated codecs with.

Values are as in the vectors' typed JSON, with ints for all integers, floats, str, bytes for Array(U8), dicts for
products, one-key dicts for sums. `to_generic` turns them into the Python values of generic shapes.
"""

import struct
from typing import Any

from spacetimedb.types.algebraic import Array, Primitive, Product, Ref, Sum, Typespace, is_option, is_result
from spacetimedb.types.special import ConnectionId, Identity, Interval, Time, TimeDuration, Timestamp, Uuid

SPECIAL = {
    "__identity__": (Identity, 32),
    "__connection_id__": (ConnectionId, 16),
    "__uuid__": (Uuid, 16),
    "__timestamp_micros_since_unix_epoch__": (Timestamp, 8),
    "__time_duration_micros__": (TimeDuration, 8),
}


def names_of(t: Any) -> list[str]:
    parts = t.variants if isinstance(t, Sum) else t.elements
    return [str(i) if part.name is None else part.name for i, part in enumerate(parts)]


def encode(t: Any, value: Any, typespace: Typespace) -> bytes:
    if isinstance(t, Ref):
        return encode(typespace.types[t.index], value, typespace)
    if isinstance(t, Array):
        if t.element == Primitive("U8"):
            return len(value).to_bytes(4, "little") + bytes(value)
        return len(value).to_bytes(4, "little") + b"".join(encode(t.element, entry, typespace) for entry in value)
    if isinstance(t, Product):
        pairs = zip(names_of(t), t.elements, strict=True)
        return b"".join(encode(e.algebraic_type, value[name], typespace) for name, e in pairs)
    if isinstance(t, Sum):
        ((key, payload),) = value.items()
        tag = names_of(t).index(key)
        return bytes([tag]) + encode(t.variants[tag].algebraic_type, payload, typespace)
    kind = t.kind
    if kind == "Bool":
        return b"\x01" if value else b"\x00"
    if kind == "String":
        raw: bytes = value.encode()
        return len(raw).to_bytes(4, "little") + raw
    if kind == "F32":
        return struct.pack("<f", value)
    if kind == "F64":
        return struct.pack("<d", value)
    number: bytes = value.to_bytes(int(kind[1:]) // 8, "little", signed=kind[0] == "I")
    return number


def inner_of(t: Any) -> Any:
    return t.variants[0].algebraic_type


def may_be_none(t: Any, typespace: Typespace) -> bool:
    """An option is None or the value, unless the value may be None itself."""
    resolved = typespace.resolve(t)
    if isinstance(t, Ref) and typespace.is_recursive(t):
        return is_option(resolved)
    return is_option(resolved) and not may_be_none(inner_of(resolved), typespace)


def to_generic(t: Any, value: Any, typespace: Typespace) -> Any:
    """The value as codecs of generic shapes give and take it."""
    if isinstance(t, Ref):
        return to_generic(typespace.types[t.index], value, typespace)
    if isinstance(t, Array):
        if t.element == Primitive("U8"):
            return value
        return [to_generic(t.element, entry, typespace) for entry in value]
    if isinstance(t, Product):
        names = names_of(t)
        if len(names) == 1 and names[0] in SPECIAL and t.elements[0].name is not None:
            cls, size = SPECIAL[names[0]]
            if t.elements[0].algebraic_type == Primitive({32: "U256", 16: "U128", 8: "I64"}[size]):
                number = value[names[0]]
                return cls(number) if size == 8 else cls(number.to_bytes(size, "little"))
        parts = zip(names, t.elements, strict=True)
        return tuple(to_generic(e.algebraic_type, value[name], typespace) for name, e in parts)
    if isinstance(t, Sum):
        ((key, payload),) = value.items()
        tag = names_of(t).index(key)
        inner = t.variants[tag].algebraic_type
        made = to_generic(inner, payload, typespace)
        if is_option(t) and not may_be_none(inner_of(t), typespace):
            return made if tag == 0 else None
        if is_result(t):
            return (key, made)
        if key in ("Interval", "Time") and isinstance(made, Timestamp | TimeDuration):
            return Interval(made) if isinstance(made, TimeDuration) else Time(made)
        resolved = [typespace.resolve(v.algebraic_type) for v in t.variants]
        if not is_option(t) and all(r == Product(()) for r in resolved):
            return tag
        return (tag, made)
    return value


def from_typed_json(t: Any, value: Any, typespace: Typespace) -> Any:
    """The vectors' typed JSON with hex texts turned into bytes and ints."""
    if isinstance(t, Ref):
        return from_typed_json(typespace.types[t.index], value, typespace)
    if isinstance(t, Array):
        if t.element == Primitive("U8"):
            return bytes.fromhex(value)
        return [from_typed_json(t.element, entry, typespace) for entry in value]
    if isinstance(t, Product):
        parts = zip(names_of(t), t.elements, strict=True)
        if isinstance(value, list):
            return {n: from_typed_json(e.algebraic_type, x, typespace) for (n, e), x in zip(parts, value, strict=True)}
        return {name: from_typed_json(e.algebraic_type, value[name], typespace) for name, e in parts}
    if isinstance(t, Sum):
        ((key, payload),) = value.items()
        tag = names_of(t).index(key)
        return {key: from_typed_json(t.variants[tag].algebraic_type, payload, typespace)}
    if t.kind in ("U256", "I256"):
        return int(value, 16)
    if t.kind in ("F32", "F64"):
        number = float("nan") if value is None else float(value)
        return struct.unpack("<f", struct.pack("<f", number))[0] if t.kind == "F32" else number
    return value
