"""Generator of what looks rows up: the methods of index objects and table handles. See `table_template` for the
rest."""

from __future__ import annotations

from .layout import IndexLayout
from .table_template import TableTemplate, function, indented_or_none

_BOUNDS = "ge=None, gt=None, le=None, lt=None"
_PASS_BOUNDS = "ge, gt, le, lt"
_NO_BOUNDS = "ge is gt is le is lt is None"


class IndexTemplate:
    """The functions of one index; their names end in the index's number."""

    def __init__(self, table: TableTemplate, index: IndexLayout) -> None:
        self.table = table
        self.index = index
        self.n = index.number
        self.is_key = index is table.layout.key
        self.is_single = len(index.attributes) == 1

    def functions(self) -> list[str]:
        """Text of all functions."""
        lines: list[str] = []
        if self.index.is_ordered:
            lines += self.select()
        lines += self.filter() + self.count()
        if not self.index.is_unique:
            return lines + self.delete_rows()
        lines += self.find() + self.get() + self.contains() + self.update() + self.upsert()
        return lines + self.delete_row()

    def names(self, writing: bool) -> dict[str, str]:
        """Method name -> name of the function."""
        names = {"filter": f"filter_{self.n}", "count": f"count_{self.n}"}
        if self.index.is_unique:
            names |= {"find": f"find_{self.n}", "get": f"get_{self.n}", "__contains__": f"contains_{self.n}"}
        if writing:
            names["delete"] = f"delete_{self.n}"
            if self.index.is_unique:
                names |= {"update": f"update_{self.n}", "upsert": f"upsert_{self.n}"}
        return names

    # What a caller passes as the key: one value, or one per column

    @property
    def _parameters(self) -> str:
        return "key" if self.is_single else ", ".join(f"key_{i}" for i in range(len(self.index.attributes)))

    @property
    def _key(self) -> str:
        return "key" if self.is_single else f"({self._parameters})"

    @property
    def _leading(self) -> str:
        """Parameter of functions that take a key, part of a key, or none."""
        return "key=MISSING" if self.is_single else "*prefix"

    @property
    def _keys(self) -> str:
        """The same where keyword-only parameters follow."""
        return "key=MISSING, *" if self.is_single else "*prefix"

    @property
    def _is_point(self) -> str:
        return "key is not MISSING" if self.is_single else f"len(prefix) == {len(self.index.attributes)}"

    @property
    def _point(self) -> str:
        return "key" if self.is_single else "prefix"

    @property
    def _prefix(self) -> str:
        return "(() if key is MISSING else (key,))" if self.is_single else "prefix"

    def _copies(self, rows: str) -> str:
        """An iterator of what module code gets for the rows of a list."""
        if self.table.is_shared:
            return f"iter({rows})"
        return f"map(copier, {rows})"

    # Reading

    def select(self) -> list[str]:
        n = self.n
        body = [
            f"nonlocal changed_{n}",
            f"changed_{n} = ordered_{n}.refresh(changed_{n})",
            f"return ordered_{n}.select(prefix, {_PASS_BOUNDS}, reverse, limit)",
        ]
        return function(f"select_{n}(prefix, {_PASS_BOUNDS}, reverse=False, limit=None)", body)

    def _point_rows(self, key: str, has_limit: bool) -> list[str]:
        """Returns the iterator for one whole key."""
        if self.index.is_unique:
            nothing = "row is None or (limit is not None and limit <= 0)" if has_limit else "row is None"
            found = self._copies("(row,)")
            return [f"row = by_{self.n}.get({key})", f"return iter(()) if {nothing} else {found}"]
        lines = [f"bucket = by_{self.n}.get({key})", "if bucket is None:", "    return iter(())"]
        if has_limit:
            limited = self._copies("list(bucket.values())[: max(limit, 0)]")
            lines += ["if limit is not None:", f"    return {limited}"]
        return [*lines, f"return {self._copies('list(bucket.values())')}"]

    def filter(self) -> list[str]:
        n = self.n
        if not self.index.is_ordered:
            return function(f"filter_{n}({self._parameters})", self._point_rows(self._key, has_limit=False))
        body = [
            f"if {self._is_point} and {_NO_BOUNDS}:",
            *indented_or_none(self._point_rows(self._point, has_limit=True)),
            f"rows = select_{n}({self._prefix}, {_PASS_BOUNDS}, reverse, limit)",
            f"return {self._copies('rows')}",
        ]
        return function(f"filter_{n}({self._keys}, {_BOUNDS}, reverse=False, limit=None)", body)

    def count(self) -> list[str]:
        n = self.n
        if not self.index.is_ordered:
            size = f"int({self._key} in by_{n})" if self.index.is_unique else f"len(by_{n}.get({self._key}, ()))"
            return function(f"count_{n}({self._parameters})", [f"return {size}"])
        size = f"int({self._point} in by_{n})" if self.index.is_unique else f"len(by_{n}.get({self._point}, ()))"
        body = [
            f"if {self._is_point} and {_NO_BOUNDS}:",
            f"    return {size}",
            f"return len(select_{n}({self._prefix}, {_PASS_BOUNDS}))",
        ]
        return function(f"count_{n}({self._keys}, {_BOUNDS})", body)

    def find(self) -> list[str]:
        body = [f"row = by_{self.n}.get({self._key})"]
        if self.is_key:
            body = [f"row = get({self._key})"]
        if self.table.is_shared:
            body.append("return row")
        else:
            body += ["if row is not None:", f"    return {self.table.copy_of('row')}"]
        return function(f"find_{self.n}({self._parameters})", body)

    def get(self) -> list[str]:
        body = [
            f"row = by_{self.n}.get({self._key})",
            "if row is None:",
            '    raise ReducerError(f"no such {title}")',
            f"return {self.table.copy_of('row')}",
        ]
        return function(f"get_{self.n}({self._parameters})", body)

    def contains(self) -> list[str]:
        return function(f"contains_{self.n}(self, key)", [f"return key in by_{self.n}"])

    # Writing

    def delete_row(self) -> list[str]:
        if self.is_key:
            if self.is_single:
                return ["", f"delete_{self.n} = remove"]
            return function(f"delete_{self.n}({self._parameters})", [f"return remove({self._key})"])
        body = [
            f"row = by_{self.n}.get({self._key})",
            f"return False if row is None else remove({self.table.key_of('row')})",
        ]
        return function(f"delete_{self.n}({self._parameters})", body)

    def delete_rows(self) -> list[str]:
        n = self.n
        remove_all = ["for key in found:", "    remove(key)", "return len(found)"]
        if not self.index.is_ordered:
            body = [f"found = list(by_{n}.get({self._key}, ()))", *remove_all]
            return function(f"delete_{n}({self._parameters})", body)
        body = [
            f"if {self._is_point} and {_NO_BOUNDS}:",
            f"    found = list(by_{n}.get({self._point}, ()))",
            "else:",
            f"    selected = select_{n}({self._prefix}, {_PASS_BOUNDS})",
            f"    found = [{self.table.key_of('row')} for row in selected]",
            *remove_all,
        ]
        return function(f"delete_{n}({self._keys}, {_BOUNDS})", body)

    def update(self) -> list[str]:
        table, n = self.table, self.n
        returned = "row"
        body: list[str] = []
        if not table.is_shared and not table.layout.sequences:
            body.append("given = row")
            returned = "given"
        elif not table.is_shared:
            returned = table.copy_of("row")
        body += [*table.take_in(), f"key = {table.key_of('row')}"]
        body.append("old = get(key)" if self.is_key else f"old = by_{n}.get({table.value_of(self.index, 'row')})")
        body += ["if old is None:", *indented_or_none(self._missing())]
        if self.is_key:
            return function(f"update_{n}(row)", [*body, *self._replace_in_place(), f"return {returned}"])
        body += [
            f"old_key = {table.key_of('old')}",
            "if key == old_key:",
            *indented_or_none([*self._replace_in_place(), f"return {returned}"]),
            *self._replace_elsewhere(),
            f"return {returned}",
        ]
        return function(f"update_{n}(row)", body)

    def _missing(self) -> list[str]:
        """No old row: a conflict with another row is reported rather than that, as upstream does."""
        table = self.table
        lines = []
        for index in table.layout.indexes:
            if index.is_unique and index is not self.index:
                m = index.number
                lines += [f"value = {table.value_of(index, 'row')}", f"if value in by_{m}:"]
                lines.append(f"    raise violation({m}, value)")
        return [*lines, f"raise no_such_row({self.n}, {table.value_of(self.index, 'row')})"]

    def _look(self) -> list[str]:
        """Everything that may raise, before anything is changed."""
        table = self.table
        lines = []
        for index in table.layout.secondary:
            m = index.number
            lines += [
                f"value_{m} = {table.value_of(index, 'row')}",
                f"was_{m} = {table.value_of(index, 'old')}",
                f"moved_{m} = value_{m} != was_{m}",
            ]
            if index.is_unique:
                lines += [f"if moved_{m} and value_{m} in by_{m}:", f"    raise violation({m}, value_{m})"]
            else:
                lines.append(f"bucket_{m} = by_{m}.get(value_{m})")
        return lines

    def _replace_in_place(self) -> list[str]:
        """`row` takes the place of `old` under the same `key`."""
        table = self.table
        lines = [*self._look(), *table.touch("key", "old"), "rows[key] = row"]
        for index in table.layout.secondary:
            m = index.number
            if index.is_unique:
                moved = [f"del by_{m}[was_{m}]", *table.note(index, f"was_{m}"), *table.note(index, f"value_{m}")]
                lines += [f"if moved_{m}:", *indented_or_none(moved), f"by_{m}[value_{m}] = row"]
            else:
                lines += [
                    f"if moved_{m}:",
                    *indented_or_none(table.unlink_one(index, "key", f"was_{m}")),
                    f"if bucket_{m} is None:",
                    f"    by_{m}[value_{m}] = {{key: row}}",
                    *indented_or_none(table.note(index, f"value_{m}")),
                    "else:",
                    f"    bucket_{m}[key] = row",
                ]
        return lines

    def _replace_elsewhere(self) -> list[str]:
        """`row` takes the place of `old`, which has another key."""
        table = self.table
        key_index = table.layout.key
        assert key_index is not None
        return [
            "if key in rows:",
            f"    raise violation({key_index.number}, key)",
            *self._look(),
            *table.touch("old_key", "old"),
            *table.touch("key", "None"),
            "del rows[old_key]",
            "rows[key] = row",
            *table.note(key_index, "old_key"),
            *table.note(key_index, "key"),
            *table.unlink("old_key", "old"),
            *table.link("key", "row"),
        ]

    def upsert(self) -> list[str]:
        value = self.table.value_of(self.index, "row")
        body = [f"if {value} in by_{self.n}:", f"    return update_{self.n}(row)", "return insert(row)"]
        return function(f"upsert_{self.n}(row)", body)

    # Reading with a record of what was read

    def recording(self) -> list[str]:
        """Readers that first report (table id, index number, key), or None as the key of anything but one whole key."""
        n, table_id = self.n, self.table.layout.table_id
        lines: list[str] = []
        point = f"record(({table_id}, {n}, {self._key}))"
        if self.index.is_unique:
            for name in ("find", "get"):
                body = [point, f"return {name}_{n}({self._parameters})"]
                lines += function(f"recorded_{name}_{n}({self._parameters})", body)
            body = [f"record(({table_id}, {n}, key))", f"return key in by_{n}"]
            lines += function(f"recorded_contains_{n}(self, key)", body)
        for name in ("filter", "count"):
            if not self.index.is_ordered:
                body = [point, f"return {name}_{n}({self._parameters})"]
                lines += function(f"recorded_{name}_{n}({self._parameters})", body)
                continue
            arguments = "key" if self.is_single else "*prefix"
            body = [
                f"record(({table_id}, {n}, {self._point} if {self._is_point} else None))",
                f"return {name}_{n}({arguments}, **bounds)",
            ]
            lines += function(f"recorded_{name}_{n}({self._leading}, **bounds)", body)
        return lines
