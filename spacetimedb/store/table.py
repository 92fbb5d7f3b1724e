"""One table: its generated code, bound to a heap, and the handles that module code gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from types import FrameType
from typing import Any, Final, Protocol

from msgspec.structs import force_setattr, replace

from spacetimedb.module.errors import NoSuchRow, ReducerError, UniqueViolation
from spacetimedb.schema.definition import TableDef
from spacetimedb.types.bsatn import codec, fixed_size
from spacetimedb.types.codec_errors import explain_encode
from spacetimedb.types.satn import satn_text
from spacetimedb.types.shapes import ProductShape, Scalar
from spacetimedb.types.source import compile_source

from .commit_record import EVENT, UNLOGGED, TableDelta
from .copying import cloner
from .layout import IndexLayout, table_layout
from .limits import MAX_ROW_BYTES, MAX_ROWS_PER_TRANSACTION
from .ordered_keys import MISSING, OrderedKeys
from .sequences import Sequence as NumberSequence
from .table_source import table_source
from .violations import IndexViolation

_CODE_TITLE: Final = "table "
_CODE_PREFIX: Final = f"<spacetimedb {_CODE_TITLE}"


class Heap(Protocol):
    """What a table needs of `memory.heap.RowHeap`."""

    memory: Any
    retired: list[int]

    def put(self, row: bytes) -> int: ...
    def row(self, ref: int) -> bytes: ...
    def rows(self, refs: Iterable[int]) -> list[bytes]: ...
    def slots(self, row_length: int) -> Any: ...
    def release(self, refs: Iterable[int]) -> None: ...


def in_table_code(frame: FrameType | None) -> bool:
    """Whether the frame, or one that it was called from, runs generated table code.

    A signal handler must not raise (a used-up budget, say) while that is so: a write that stops half-way leaves indexes
    that roll-back cannot repair. It has to come back a moment later instead.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith(_CODE_PREFIX):
            return True
        frame = frame.f_back
    return False


class Table:
    """A table of the store. Made by `Store.add_table`; the methods here serve the host, `handle` serves module code.

    `handle`: insert, try_insert, iter, count, delete, clear, and an object per index under the index's accessor names
    (find, get, update, upsert, delete, filter, count, `in`); `reader`: what of that only reads. `index_handles` and
    `index_readers` have the index objects by canonical index name. A method name wins over a column of the same name.

    `rows`, `refs` and `touched` are the dicts described in `table_template`: only look. `encode(row)` gives a row's
    BSATN.
    """

    def __init__(
        self,
        table_id: int,
        definition: TableDef,
        shape: ProductShape,
        heap: Heap,
        dirty: list[Table],
        sequences: Sequence[NumberSequence] = (),
        *,
        max_rows: int = MAX_ROWS_PER_TRANSACTION,
        max_row_bytes: int = MAX_ROW_BYTES,
    ) -> None:
        """`sequences` are those of the definition, in order.

        Raises ValueError if a column cannot serve as the key or sequence that the definition makes it.
        """
        layout = table_layout(table_id, definition, shape)
        self.table_id = table_id
        self.definition = definition
        self.name = definition.name
        self.layout = layout
        self.shape = layout.shape
        self.row_class = layout.row_class
        self.flags = (EVENT if definition.is_event else 0) | (0 if definition.is_durable else UNLOGGED)
        size = fixed_size(layout.shape)
        self.is_fixed = size is not None
        self.row_length = size or 0
        self.sequences = tuple(sequences)
        self._heap = heap
        self._max_rows = max_rows
        self._max_row_bytes = max_row_bytes
        if self.row_length > max_row_bytes:
            raise ValueError(f"table {self.name}: rows of {self.row_length} bytes exceed the limit of {max_row_bytes}")
        source, names = table_source(layout, self.flags)
        self.source = source
        names |= self._constants(dirty)
        build = compile_source(f"{_CODE_TITLE}{self.name}", source, names, "build")
        self._build = build  # its lines stay in linecache as long as it lives
        self._code: dict[str, Any] = build()
        self.rows: dict[Any, Any] = self._code["rows"]
        self.refs_by_key: dict[Any, int] = self._code["refs"]
        self.touched: dict[Any, Any] = self._code["touched"]
        self.encode: Callable[[Any], bytes] = self._code["encode"]
        self.prepare: Callable[[], tuple[TableDelta | None, Any, Any]] = self._code["prepare"]
        self.finish: Callable[[TableDelta | None, Any, Any], None] = self._code["finish"]
        self.rollback: Callable[[], None] = self._code["rollback"]
        self.index_handles: dict[str, Any] = {}
        self.index_readers: dict[str, Any] = {}
        self.handle = self._handle("Table", self._code["writers"], self.index_handles)
        self.reader = self._handle("Reader", self._code["readers"], self.index_readers)

    def _constants(self, dirty: list[Table]) -> dict[str, object]:
        """Globals of the generated code."""
        layout, heap = self.layout, self._heap
        slots = heap.slots(self.row_length) if self.is_fixed else None
        constants: dict[str, object] = {
            "MISSING": MISSING,
            "OrderedKeys": OrderedKeys,
            "ReducerError": ReducerError,
            "UniqueViolation": UniqueViolation,
            "TableDelta": TableDelta,
            "Row": layout.row_class,
            "replace": replace,
            "force_setattr": force_setattr,
            "decode": codec(layout.shape).decode,
            "table": self,
            "title": self.name,
            "dirty": dirty,
            "heap": heap,
            "memory": heap.memory,
            "put": heap.put,
            "heap_row": heap.row,
            "retired": heap.retired,
            "free": slots and slots.free,
            "take": slots and slots.take,
            "header": slots and slots.header,
            "max_rows": self._max_rows,
            "max_bytes": self._max_row_bytes,
            "violation": self._violation,
            "no_such_row": self._no_such_row,
            "wrong_row": self._wrong_row,
            "too_many": self._too_many,
            "too_long": self._too_long,
            "explain": self._explain,
        }
        for n, (part, sequence) in enumerate(zip(layout.sequences, self.sequences, strict=True)):
            constants[f"next_{n}"] = sequence.generator(part.bits, part.is_signed)
        for field in layout.deep:
            constants[f"clone_{field.attr}"] = cloner(field.shape)
        return constants

    # Handles

    def _handle(self, kind: str, members: dict[int | None, dict[str, Any]], by_name: dict[str, Any]) -> Any:
        """An object with the table's methods and its index objects; the latter also go into `by_name`."""
        own = dict(members[None])
        singles = sorted(self.layout.indexes, key=lambda index: not index.is_unique)
        for index in singles:
            handle = _slots_object(f"Index {index.name}", members[index.number])
            by_name[index.name] = handle
            for accessor in index.accessors:
                own.setdefault(accessor, handle)
        return _slots_object(f"{kind} {self.name}", own)

    def recording_reader(self, record: Callable[[tuple[int, int | None, Any]], object]) -> Any:
        """A reader that first calls `record((table id, index number, key))` for everything it is asked for.

        The number is the index's position in the definition; the key is None for anything but one whole key; both are
        None for the whole table. `keys_of` gives the keys of changed rows to compare with.
        """
        return self._handle("Reader", self._code["recording"](record), {})

    def keys_of(self, index_number: int, images: Iterable[bytes]) -> list[Any]:
        """Index keys of rows given as BSATN."""
        index = self.layout.indexes[index_number]
        decode = codec(self.shape).decode
        rows = [decode(image)[0] for image in images]
        if len(index.attributes) == 1:
            attribute = index.attributes[0]
            return [getattr(row, attribute) for row in rows]
        return [tuple([getattr(row, attribute) for attribute in index.attributes]) for row in rows]

    def decode(self, image: bytes) -> Any:
        """The row object for a row's BSATN; it is not part of the table."""
        return codec(self.shape).decode_exact(image)

    # Errors raised by generated code

    def _columns(self, index: IndexLayout) -> tuple[str, ...]:
        return tuple(self.definition.columns[position].name for position in index.columns)

    def _violation(self, number: int, key: object) -> UniqueViolation:
        index = self.layout.indexes[number]
        note = ""
        for part, sequence in zip(self.layout.sequences, self.sequences, strict=True):
            if index.attributes == (part.attribute,) and sequence.exhausted(part.bits, part.is_signed):
                note = f"sequence {sequence.definition.name} is exhausted: its numbers no longer fit the column"
        return IndexViolation(self.name, index.name, self._columns(index), index.columns, key, note)

    def explain_violation(self, error: IndexViolation) -> str:
        """The text that SQL answers and the log have for a violation; modules and their clients never see it."""
        fields = [self.shape.fields[position] for position in error.positions]
        shape = fields[0].shape if len(fields) == 1 else ProductShape(None, tuple(fields))
        columns = json.dumps(error.columns, ensure_ascii=False)
        return (
            f"IndexError: Unique constraint violation '{error.index}' in table '{self.name}': "
            f"column(s): '{columns}' value: {satn_text(shape)(error.key)}"
        )

    def _no_such_row(self, number: int, key: object) -> NoSuchRow:
        return NoSuchRow(self.name, ", ".join(self._columns(self.layout.indexes[number])), key)

    def _wrong_row(self, row: object) -> TypeError:
        return TypeError(f"table {self.name} holds {self.row_class.__name__} rows, not {type(row).__name__}")

    def _too_many(self) -> ReducerError:
        return ReducerError(f"a transaction may add at most {self._max_rows} rows")

    def _too_long(self, size: int) -> ReducerError:
        return ReducerError(f"a row of table {self.name} takes {size} bytes, the limit is {self._max_row_bytes}")

    def _explain(self, row: object, error: BaseException) -> BaseException:
        """The error to raise when encoding `row` failed with `error`."""
        if isinstance(error, (ValueError, TypeError, ArithmeticError, AttributeError, LookupError)) or _is_packing(
            error
        ):
            return ValueError(f"table {self.name}: {explain_encode(self.shape, row, error)}")  # type: ignore[arg-type]
        return error

    # Recovery

    @property
    def row_count(self) -> int:
        """Rows as the running transaction sees them."""
        return len(self.rows)

    @property
    def index_count(self) -> int:
        """Indexes, those of keys included."""
        return len(self.layout.indexes)

    def estimated_bytes(self, sample: int) -> int:
        """Bytes of the committed rows: exact if all rows have one length, else judged by so many rows. O(sample)."""
        count = len(self.refs_by_key)
        if self.row_length or not count:
            return count * self.row_length
        rows = self._heap.rows(list(islice(self.refs_by_key.values(), sample)))
        return sum(map(len, rows)) * count // len(rows)

    def look_up(self, column: int, keys: Iterable[bytes], limit: int | None) -> list[int] | None:
        """Refs of the committed rows with these values of a column, each as a reader's indexes have it: strings and
        byte arrays without their length, others as BSATN.

        None: they are more than that many, or there is no index of the column alone. Without a limit all rows are
        looked at then.
        """
        layout = self.layout
        index = next((index for index in layout.indexes if index.columns == (column,)), None)
        if index is None and limit is not None:
            return None
        shape = self.shape.fields[column].shape
        decode: Callable[[bytes], Any] = codec(shape).decode_exact
        if shape in (Scalar("string"), Scalar("bytes")):
            decode = bytes.decode if shape == Scalar("string") else bytes
        refs = self.refs_by_key
        if index is None:
            attribute = self.shape.fields[column].attr
            wanted = set(map(decode, keys))
            return [refs[key] for key, row in self.rows.items() if getattr(row, attribute) in wanted]
        found = self._code["indexes"][index.number]
        out: list[int] = []
        for key in keys:
            value = decode(key)
            there = found.get(value)
            if there is None:
                continue
            if index is layout.key:
                out.append(refs[value])
            elif index.is_unique:
                out.append(refs[self._key_of(there)])
            else:
                out += map(refs.__getitem__, there)
            if limit is not None and len(out) > limit:
                return None
        return out

    def page(self, offset: int, count: int) -> list[int]:
        """Refs of so many committed rows from the offset on, in the table's order: that of insertion; a row that
        changes stays where it is. O(count + rows between the page and the nearer end)."""
        refs = self.refs_by_key
        total = len(refs)
        start, stop = min(offset, total), min(offset + count, total)
        if start <= total - stop:
            return list(islice(refs.values(), start, stop))
        return list(islice(reversed(refs.values()), total - stop, total - start))[::-1]

    def _key_of(self, row: Any) -> Any:
        """Where a row stands in `rows`, in a table with a key."""
        assert self.layout.key is not None
        values = [getattr(row, attribute) for attribute in self.layout.key.attributes]
        return values[0] if len(values) == 1 else tuple(values)

    def images(self) -> list[bytes]:
        """BSATN of all committed rows, in the order of `refs`."""
        return self._heap.rows(self.refs_by_key.values())

    def load(self, images: Sequence[bytes]) -> None:
        """Takes in committed rows in bulk: a snapshot's.

        Raises UniqueViolation or, if a row comes twice, ValueError; the table is of no use then.
        """
        refs = list(map(self._heap.put, images))
        try:
            self._adopt(images, refs)
        except BaseException:
            self._heap.release(refs)
            raise

    def apply(self, deletes: Sequence[bytes], inserts: Sequence[bytes], is_truncated: bool = False) -> None:
        """Replays a logged change. With `is_truncated` all rows go, whatever `deletes` lists.

        Raises ValueError or UniqueViolation if the change does not fit what is there.
        """
        self._require_quiet()
        if self.flags & EVENT:
            return
        if is_truncated:
            self._code["discard_all"]()
        elif deletes:
            try:
                self._code["discard"](deletes)
            except KeyError:
                raise ValueError(f"table {self.name}: a row to delete is not there") from None
        if inserts:
            self._adopt(inserts, list(map(self._heap.put, inserts)))

    def drop(self) -> None:
        """Retires all rows: the table is no more."""
        self._require_quiet()
        self._code["discard_all"]()

    def adopt_from(self, old: Table) -> None:
        """Takes over the committed rows of a table with the same column types, refs and all."""
        self._adopt(old.images(), list(old.refs_by_key.values()))

    def _adopt(self, images: Sequence[bytes], refs: list[int]) -> None:
        self._require_quiet()
        expected = len(self.rows) + len(images)
        self._code["adopt"](images, refs)
        for index in self.layout.indexes:
            if index.is_unique and len(self._code["indexes"][index.number]) != expected:
                seen = set()
                for key in self.keys_of(index.number, [*images, *self.images()][:expected]):
                    if key in seen:
                        raise self._violation(index.number, key)
                    seen.add(key)
        if len(self.rows) != expected:
            raise ValueError(f"table {self.name}: the same row comes twice")

    def _require_quiet(self) -> None:
        if self.touched:
            raise RuntimeError(f"table {self.name} has uncommitted changes")

    # Inspection

    def _check(self) -> None:
        """Raises AssertionError unless rows, indexes, refs and heap agree."""
        for index in self.layout.indexes:
            expected: dict[Any, Any] = {}
            for key, row in self.rows.items():
                value = tuple([getattr(row, attribute) for attribute in index.attributes])
                value = value[0] if len(value) == 1 else value
                if index.is_unique:
                    _require(value not in expected, self.name, index.name, "holds a value twice", value)
                    expected[value] = row
                else:
                    expected.setdefault(value, {})[key] = row
            found = self._code["indexes"][index.number]
            _require(
                found.keys() == expected.keys(), self.name, index.name, "has wrong keys", found.keys() ^ expected.keys()
            )
            for value, entry in found.items():
                same = entry is expected[value] if index.is_unique else _identical(entry, expected[value])
                _require(same, self.name, index.name, "has a wrong entry", value)
        self._code["check_order"]()
        committed = {key for key in self.rows if key not in self.touched}
        committed |= {key for key, old in self.touched.items() if old is not None}
        if self.flags & EVENT:
            _require(not self.refs_by_key, self.name, "an event table has refs")
            return
        _require(self.refs_by_key.keys() == committed, self.name, "refs are not those of the committed rows")
        refs = list(self.refs_by_key.values())
        _require(len(set(refs)) == len(refs), self.name, "two rows have one ref")
        for key, ref in self.refs_by_key.items():
            row = self.touched[key] if key in self.touched else self.rows[key]
            _require(self._heap.row(ref) == self.encode(row), self.name, "the heap holds other bytes of", row)


def _is_packing(error: BaseException) -> bool:
    return type(error).__module__ == "struct"


def _identical(found: dict[Any, Any], expected: dict[Any, Any]) -> bool:
    return found.keys() == expected.keys() and all(found[key] is row for key, row in expected.items())


def _require(condition: bool, *text: object) -> None:
    if not condition:
        raise AssertionError(" ".join(map(str, text)))


def _slots_object(title: str, members: dict[str, Any]) -> Any:
    """An object with the members as slots; special methods become methods of its class."""
    special = {name: member for name, member in members.items() if name.startswith("__")}
    plain = {name: member for name, member in members.items() if name not in special}
    namespace = {"__slots__": tuple(plain), "__repr__": lambda self: f"<{title}>", **special}
    made = type(title, (), namespace)()
    for name, member in plain.items():
        setattr(made, name, member)
    return made
