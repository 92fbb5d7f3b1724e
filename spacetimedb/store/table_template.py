"""Generator of a table's code: storage, undo log, commit, recovery. (`index_template` adds what looks rows up.)

Every table gets one Python function `build()` of its own, written here as text and compiled once. What it defines are
closures over the table's dicts, so that an operation is a handful of dict look-ups without attribute access:

    rows      key -> row, as the running transaction sees it
    touched   key -> row before the transaction, None where there was none; the undo log
    refs      key -> heap ref of the committed row
    by_<n>    index n: value -> row, or value -> {key: row} if it is not unique

The key is the value of the primary key, or of the first unique index, or the row's BSATN. The index of the key needs no
dict of its own: `rows` is it.

Rules that all generated code keeps:

* A stored row object is never changed (but for the rounding of f32 columns at commit) and never handed out unless
  frozen.
* Writes happen in place; `touched` keeps the first old row. Whatever may raise (conflicts, unhashable keys) comes
  before the first change. Roll-back first unlinks every touched row from all indexes, then puts the old ones back: in
  one pass rows that swapped unique values would unlink each other.
* `prepare` encodes new rows and writes them to the heap, where nobody knows their refs yet, so it may fail; `finish`,
  which makes the transaction's state the committed one, cannot.
* Net effect: a touched row that is gone is a delete, a new one an insert, a different one both, an equal one nothing.
  Rows with floats are equal if their bytes are, all others if the objects are, which comes to the same and is faster.
"""

from __future__ import annotations

from struct import Struct as Format

from spacetimedb.types.bsatn import encode_source, fixed_size
from spacetimedb.types.shapes import Scalar
from spacetimedb.types.source import SourceBuilder, indented

from .commit_record import EVENT, TRUNCATED
from .layout import IndexLayout, TableLayout
from .limits import MAX_PENDING_KEYS

_NAMES = """
    MISSING OrderedKeys ReducerError Row TableDelta UniqueViolation adopt bucket build clear copier copy_row count
    decode delete deletes delta dirty discard discard_all encode error existing explain finish force_setattr found
    free fresh get given gone header heap heap_row image images insert inserts is_sorted key keys max_bytes max_rows
    memory new new_refs no_such_row old old_key old_refs pop prefix prepare put record recording ref refs remove
    replace retired rollback row rows selected table take title too_long too_many touched try_insert value violation
    was wrong_row
"""
_NUMBERED = """
    bucket by changed contains count delete filter find get key moved next ordered recorded select update upsert value
    was
"""


def reserved_names(layout: TableLayout) -> set[str]:
    """Names that the templates use themselves; the encoder that is put into the code must not."""
    numbers = range(max(len(layout.shape.fields), len(layout.indexes)))
    numbered = {f"{stem}_{n}" for stem in _NUMBERED.split() for n in numbers}
    return {*_NAMES.split(), *numbered, *(f"clone_{field.attr}" for field in layout.deep)}


class TableTemplate:
    """Pieces of text shared by all parts of a table's code."""

    def __init__(self, layout: TableLayout, builder: SourceBuilder, flags: int) -> None:
        self.layout = layout
        self.builder = builder
        self.flags = flags
        self.size = fixed_size(layout.shape)
        self.encode_lines, self.encode_value = encode_source(layout.shape, "row", builder)

    # Expressions

    @property
    def is_shared(self) -> bool:
        """Whether rows are handed out as they are."""
        return self.layout.is_frozen and not self.layout.deep

    def key_of(self, row: str) -> str:
        return f"encode({row})" if self.layout.key is None else self.value_of(self.layout.key, row)

    def value_of(self, index: IndexLayout, row: str) -> str:
        values = [f"{row}.{attribute}" for attribute in index.attributes]
        return values[0] if len(values) == 1 else f"({', '.join(values)})"

    def copy_of(self, row: str) -> str:
        if self.is_shared:
            return row
        return f"copy_row({row})" if self.layout.deep else f"{row}.__copy__()"

    def note(self, index: IndexLayout | None, value: str) -> list[str]:
        """Notes that a key of an ordered index came or went."""
        if index is None or not index.is_ordered:
            return []
        n = index.number
        return [f"if changed_{n} is not None:", f"    changed_{n}.add({value})"]

    def drop_order(self) -> list[str]:
        """Forgets sorted keys, when everything changes at once."""
        lines = []
        for index in self.ordered:
            lines += [f"ordered_{index.number}.drop()", f"changed_{index.number} = None"]
        return lines

    @property
    def ordered(self) -> list[IndexLayout]:
        return [index for index in self.layout.indexes if index.is_ordered]

    def nonlocals(self) -> list[str]:
        return [f"nonlocal {', '.join(f'changed_{index.number}' for index in self.ordered)}"] if self.ordered else []

    # Statements

    def take_in(self) -> list[str]:
        """Checks and copies the argument `row`, fills generated columns, computes `key`."""
        layout = self.layout
        lines = ["if row.__class__ is not Row:", "    raise wrong_row(row)"]
        if not self.is_shared:
            lines.append(f"row = {self.copy_of('row')}")
        for n, sequence in enumerate(layout.sequences):
            attribute = sequence.attribute
            lines.append(f"if not row.{attribute}:")
            if layout.is_frozen:
                lines.append(f"    row = replace(row, {attribute}=next_{n}())")
            else:
                lines.append(f"    row.{attribute} = next_{n}()")
        return lines

    def touch(self, key: str, old: str, limit: bool = False) -> list[str]:
        """Remembers what was there before this transaction."""
        lines = [f"if {key} not in touched:", "    if not touched:", "        dirty.append(table)"]
        if limit:
            lines += ["    elif len(touched) - len(refs) >= max_rows:", "        raise too_many()"]
        return [*lines, f"    touched[{key}] = {old}"]

    def link(self, key: str, row: str) -> list[str]:
        """Puts a row into all indexes but that of the key."""
        lines = []
        for index in self.layout.secondary:
            n = index.number
            if index.is_unique:
                lines += [f"value = {self.value_of(index, row)}", f"by_{n}[value] = {row}", *self.note(index, "value")]
            else:
                lines += [
                    f"value = {self.value_of(index, row)}",
                    f"bucket = by_{n}.get(value)",
                    "if bucket is None:",
                    f"    by_{n}[value] = {{{key}: {row}}}",
                    *indented_or_none(self.note(index, "value")),
                    "else:",
                    f"    bucket[{key}] = {row}",
                ]
        return lines

    def unlink(self, key: str, row: str) -> list[str]:
        """Takes a row out of all indexes but that of the key."""
        lines = []
        for index in self.layout.secondary:
            lines += [f"value = {self.value_of(index, row)}", *self.unlink_one(index, key, "value")]
        return lines

    def unlink_one(self, index: IndexLayout, key: str, value: str) -> list[str]:
        n = index.number
        if index.is_unique:
            return [f"del by_{n}[{value}]", *self.note(index, value)]
        return [
            f"bucket = by_{n}[{value}]",
            f"del bucket[{key}]",
            "if not bucket:",
            f"    del by_{n}[{value}]",
            *indented_or_none(self.note(index, value)),
        ]

    def encode_row(self) -> list[str]:
        """`image` = BSATN of `row`."""
        lines = [*self.encode_lines, f"image = {self.encode_value}"]
        if self.size is None:
            lines += ["if len(image) > max_bytes:", "    raise too_long(len(image))"]
        return lines

    def round_row(self) -> list[str]:
        """Makes the f32 columns of the stored `row` what their bytes say."""
        columns = self.layout.f32_columns
        if not columns:
            return []
        if self.size is not None and not self.layout.is_frozen and all(f.shape == Scalar("f32") for f in columns):
            codes = ["f" if field in columns else f"{fixed_size(field.shape)}x" for field in self.layout.shape.fields]
            unpack = self.builder.bind("unpack_f32", Format("<" + "".join(codes)).unpack)
            return [f"{', '.join(f'row.{field.attr}' for field in columns)}, = {unpack}(image)"]
        lines = ["fresh = decode(image)[0]"]
        for field in columns:
            if self.layout.is_frozen:
                lines.append(f"force_setattr(row, {field.attr!r}, fresh.{field.attr})")
            else:
                lines.append(f"row.{field.attr} = fresh.{field.attr}")
        return lines

    def put_image(self) -> list[str]:
        """`ref` = where `image` now lies in the heap."""
        if self.size is None:
            return ["ref = put(image)"]
        end = self.size + 4
        return ["ref = free.pop() if free else take()", f"memory[ref : ref + {end}] = header + image"]

    def image_at(self, ref: str) -> str:
        return f"heap_row({ref})" if self.size is None else f"memory[{ref} + 4 : {ref} + {self.size + 4}]"

    # Functions

    def state(self) -> list[str]:
        lines = ["rows = {}", "touched = {}", "refs = {}", "get, pop, has = rows.get, rows.pop, rows.__contains__"]
        for index in self.layout.indexes:
            n = index.number
            if index is self.layout.key:
                lines.append(f"by_{n} = rows  # {index.name}: the key")
            else:
                lines.append(f"by_{n} = {{}}  # {index.name}")
            if index.is_ordered:
                lines.append(f"ordered_{n} = OrderedKeys(by_{n}, {index.is_unique}, {index.reverse_bytes})")
                lines.append(
                    f"changed_{n} = None  # keys that came or went since the last scan in order; None: no scan yet"
                )
        return lines

    def encode(self) -> list[str]:
        body = ["try:", *indented(self.encode_row()), *self._explain("row"), "return image"]
        return function("encode(row)", body)

    def _explain(self, row: str) -> list[str]:
        return [
            "except ReducerError:",
            "    raise",
            "except Exception as error:",
            f"    raise explain({row}, error) from None",
        ]

    def copy_function(self) -> list[str]:
        layout = self.layout
        if not layout.deep:
            return [] if self.is_shared else ["", "copier = Row.__copy__"]
        changes = [f"clone_{field.attr}(row.{field.attr})" for field in layout.deep]
        if layout.is_frozen:
            pairs = ", ".join(f"{f.attr}={change}" for f, change in zip(layout.deep, changes, strict=True))
            return [*function("copy_row(row)", [f"return replace(row, {pairs})"]), "", "copier = copy_row"]
        lines = [f"new.{f.attr} = {change}" for f, change in zip(layout.deep, changes, strict=True)]
        return [*function("copy_row(row)", ["new = row.__copy__()", *lines, "return new"]), "", "copier = copy_row"]

    def insert(self) -> list[str]:
        layout = self.layout
        # Where no copy of the row is made first, `has` sees that there is room on the stack (see `remove`).
        old = "get(key) if has(key) else None" if self.layout.is_frozen else "get(key)"
        body = [*self.take_in(), f"key = {self.key_of('row')}", f"old = {old}", "if old is not None:"]
        if layout.key is None:
            body.append(f"    return {self.copy_of('old')}")
        else:
            same = "encode(old) == encode(row)" if layout.has_floats else "old == row"
            body += [
                f"    if {same}:",
                f"        return {self.copy_of('old')}",
                f"    raise violation({layout.key.number}, key)",
            ]
        for index in layout.secondary:
            n = index.number
            body.append(f"value_{n} = {self.value_of(index, 'row')}")
            if index.is_unique:
                body += [f"if value_{n} in by_{n}:", f"    raise violation({n}, value_{n})"]
            else:
                body.append(f"bucket_{n} = by_{n}.get(value_{n})")
        body += [*self.touch("key", "None", limit=True), "rows[key] = row", *self.note(layout.key, "key")]
        for index in layout.secondary:
            n = index.number
            if index.is_unique:
                body += [f"by_{n}[value_{n}] = row", *self.note(index, f"value_{n}")]
            else:
                body += [
                    f"if bucket_{n} is None:",
                    f"    by_{n}[value_{n}] = {{key: row}}",
                    *indented_or_none(self.note(index, f"value_{n}")),
                    "else:",
                    f"    bucket_{n}[key] = row",
                ]
        body.append(f"return {self.copy_of('row')}")
        return function("insert(row)", body)

    def try_insert(self) -> list[str]:
        body = ["try:", "    return insert(row)", "except UniqueViolation:", "    return None"]
        return function("try_insert(row)", body)

    def remove(self) -> list[str]:
        body = [
            # This call needs as much room on the stack as any after it: if there is none, nothing has changed yet.
            "if not has(key):",
            "    return False",
            "row = pop(key)",
            *self.touch("key", "row"),
            *self.note(self.layout.key, "key"),
            *self.unlink("key", "row"),
            "return True",
        ]
        return function("remove(key)", body)

    def delete(self) -> list[str]:
        body = ["if row.__class__ is not Row:", "    raise wrong_row(row)", f"key = {self.key_of('row')}"]
        if self.layout.key is not None:
            same = "encode(old) == encode(row)" if self.layout.has_floats else "old == row"
            body += ["old = get(key)", f"if old is None or not ({same}):", "    return False"]
        return function("delete(row)", [*body, "return remove(key)"])

    def clear(self) -> list[str]:
        body = [
            *self.nonlocals(),
            "count = len(rows)",
            "if not count:",
            "    return 0",
            "if touched:",
            "    touched.update({**rows, **touched})",
            "else:",
            "    dirty.append(table)",
            "    touched.update(rows)",
            *self.empty(),
            "return count",
        ]
        return function("clear()", body)

    def empty(self) -> list[str]:
        """Empties `rows` and all indexes."""
        return ["rows.clear()", *[f"by_{i.number}.clear()" for i in self.layout.secondary], *self.drop_order()]

    def prepare(self) -> list[str]:
        if self.flags & EVENT:
            return self._prepare_event()
        layout = self.layout
        start = [
            '"""Writes what changed to the heap: (delta, new rows: key -> ref, keys of rows that are gone)."""',
            "deletes, inserts, old_refs, new_refs, gone = [], [], [], {}, []",
            "row = None",
            "try:",
            "    for key, old in touched.items():",
            "        row = get(key)",
        ]
        store_image = [*self.put_image(), "inserts.append(image)", "new_refs[key] = ref"]
        if layout.key is None:
            # Rows are kept by their bytes: a row that is back is the same row.
            # `encode` has checked its length when it was inserted.
            loop = [
                "if row is None:",
                "    if old is not None:",
                "        gone.append(key)",
                "        old_refs.append(refs[key])",
                "        deletes.append(key)",
                "    continue",
                "image = key",
                *self.round_row(),
                "if old is None:",
                *indented(store_image),
            ]
        elif layout.has_floats:
            loop = [
                "if row is None:",
                "    if old is not None:",
                "        ref = refs[key]",
                "        gone.append(key)",
                "        old_refs.append(ref)",
                f"        deletes.append({self.image_at('ref')})",
                "    continue",
                *self.encode_row(),
                *self.round_row(),
                "if old is not None:",
                "    ref = refs[key]",
                f"    was = {self.image_at('ref')}",
                "    if was == image:",
                "        continue",
                "    old_refs.append(ref)",
                "    deletes.append(was)",
                *store_image,
            ]
        else:
            loop = [
                "if row == old:",
                "    continue",
                "if row is None:",
                "    gone.append(key)",
                "else:",
                *indented([*self.encode_row(), *store_image]),
                "if old is not None:",
                "    ref = refs[key]",
                "    old_refs.append(ref)",
                f"    deletes.append({self.image_at('ref')})",
            ]
        truncated = f"{self.flags | TRUNCATED} if deletes and not rows else {self.flags}"
        end = [
            "except BaseException as error:",
            "    heap.release(new_refs.values())",
            "    raise explain(row, error) from None",
            "if inserts or deletes:",
            f"    flags = {truncated}",
            "    fresh = list(new_refs.values())",
            f"    delta = TableDelta({layout.table_id}, flags, {self.size or 0}, deletes, inserts, old_refs, fresh)",
            "    return delta, new_refs, gone",
            "return None, new_refs, gone",
        ]
        return function("prepare()", [*start, *indented(loop, 2), *end])

    def _prepare_event(self) -> list[str]:
        body = [
            '"""Encodes the events of this transaction."""',
            "if not rows:",
            "    return None, {}, ()",
            "inserts = [encode(row) for row in rows.values()]",
            f"delta = TableDelta({self.layout.table_id}, {self.flags}, {self.size or 0}, [], inserts, [], [])",
            "return delta, {}, ()",
        ]
        return function("prepare()", body)

    def finish(self) -> list[str]:
        body = ['"""Makes the transaction\'s state the committed one."""', *self.nonlocals()]
        if self.flags & EVENT:
            return function("finish(delta, new_refs, gone)", [*body, "touched.clear()", *self.empty()])
        body += [
            "touched.clear()",
            "if delta is not None:",
            "    refs.update(new_refs)",
            "    for key in gone:",
            "        del refs[key]",
            "    retired.extend(delta.deleted_refs)",
        ]
        for index in self.ordered:
            n = index.number
            body += [f"if changed_{n} is not None and len(changed_{n}) > {MAX_PENDING_KEYS}:"]
            body += [f"    ordered_{n}.drop()", f"    changed_{n} = None"]
        return function("finish(delta, new_refs, gone)", body)

    def rollback(self) -> list[str]:
        key_note = self.note(self.layout.key, "key")
        body = [
            "for key in touched:",
            "    row = pop(key, None)",
            "    if row is not None:",
            *indented([*key_note, *self.unlink("key", "row")] or ["pass"], 2),
            "for key, row in touched.items():",
            "    if row is not None:",
            *indented(["rows[key] = row", *key_note, *self.link("key", "row")], 2),
            "touched.clear()",
        ]
        if self.flags & EVENT:
            body = [*self.nonlocals(), "touched.clear()", *self.empty()]
        return function("rollback()", body)

    def adopt(self) -> list[str]:
        """Recovery: rows that are committed already."""
        body = [
            '"""Takes in committed rows whose bytes lie in the heap."""',
            *self.nonlocals(),
            "for image, ref in zip(images, new_refs):",
            "    row = decode(image)[0]",
            f"    key = {'image' if self.layout.key is None else self.key_of('row')}",
            "    rows[key] = row",
            "    refs[key] = ref",
            *indented_or_none([*self.note(self.layout.key, "key"), *self.link("key", "row")]),
        ]
        return function("adopt(images, new_refs)", body)

    def discard(self) -> list[str]:
        body = [
            '"""Takes out committed rows, given as bytes, and retires their refs. KeyError if one is not there."""',
            "for image in images:",
            f"    key = {'image' if self.layout.key is None else self.key_of('decode(image)[0]')}",
            "    row = pop(key)",
            "    retired.append(refs.pop(key))",
            *indented_or_none([*self.note(self.layout.key, "key"), *self.unlink("key", "row")]),
        ]
        return function("discard(images)", body)

    def check_order(self) -> list[str]:
        body = [f"ordered_{index.number}.check(changed_{index.number})" for index in self.ordered]
        return function("check_order()", body or ["pass"])

    def discard_all(self) -> list[str]:
        body = [*self.nonlocals(), "retired.extend(refs.values())", "refs.clear()", *self.empty()]
        return function("discard_all()", body)


def function(signature: str, body: list[str]) -> list[str]:
    """A function definition, with an empty line before it."""
    return ["", f"def {signature}:", *indented(body)]


def indented_or_none(lines: list[str]) -> list[str]:
    """The lines one level deeper; nothing if there are none."""
    return indented(lines) if lines else []
