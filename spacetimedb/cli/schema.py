"""The schema route's answer (version 10) as the command line needs it: functions with parameters, tables with types.

Submodules stand with their names before a dot (`lib.item`). Types stay in their JSON form, e.g. `{"U32": []}`,
`{"Ref": 3}`, `{"Product": {"elements": [...]}}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

JsonType = dict[str, Any]


class Function(msgspec.Struct, frozen=True):
    name: str
    kind: str  # 'reducer' or 'procedure'
    parameters: tuple[tuple[str, JsonType], ...]
    typespace: list[JsonType]
    callable: bool  # False: lifecycle and private functions


class TableEntry(msgspec.Struct, frozen=True):
    """A table, or a view with `is_view`. `row_type` refers to `typespace`, that of its own (sub)module."""

    name: str
    row_type: JsonType
    typespace: list[JsonType]
    is_public: bool
    is_view: bool
    raw: dict[str, Any]


class Schema:
    """`tables` (views too) and `functions` by canonical name, in the order of the definition."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.tables: dict[str, TableEntry] = {}
        self.functions: dict[str, Function] = {}
        self.raw_functions: dict[str, dict[str, Any]] = {}
        self._read(body, "")

    def _read(self, body: dict[str, Any], prefix: str) -> None:
        sections: dict[str, Any] = {}
        for section in body.get("sections", []):
            sections.update(section)
        canonical: dict[tuple[str, str], str] = {}
        for entry in sections.get("ExplicitNames", {}).get("entries", []):
            for kind, names in entry.items():
                canonical[kind, names["source_name"]] = names["canonical_name"]

        def name_of(kind: str, raw: dict[str, Any]) -> str:
            return prefix + canonical.get((kind, raw["source_name"]), str(raw["source_name"]))

        types: list[JsonType] = sections.get("Typespace", {}).get("types", [])
        for table in sections.get("Tables", []):
            name, row_type = name_of("Table", table), types[table["product_type_ref"]]
            self.tables[name] = TableEntry(name, row_type, types, "Public" in table["table_access"], False, table)
        for view in sections.get("Views", []):
            name = name_of("Function", view)
            self.tables[name] = TableEntry(name, _view_row(view["return_type"]), types, True, True, view)
        lifecycle = {entry["function_name"] for entry in sections.get("LifeCycleReducers", [])}
        for kind, section in (("reducer", "Reducers"), ("procedure", "Procedures")):
            for function in sections.get(section, []):
                name = name_of("Function", function)
                parameters = tuple(
                    (element["name"].get("some", str(n)), element["algebraic_type"])
                    for n, element in enumerate(function["params"]["elements"])
                )
                hidden = name.removeprefix(prefix) in lifecycle or "Private" in function.get("visibility", {})
                self.functions[name] = Function(name, kind, parameters, types, not hidden)
                self.raw_functions[name] = function
        for submodule in sections.get("Submodules", []):
            self._read(submodule["module"], f"{prefix}{submodule['namespace']}.")

    def signature(self, function: Function) -> str:
        """`add_item(name: String, price: U32)`."""
        parameters = ", ".join(f"{name}: {display(kind, function.typespace)}" for name, kind in function.parameters)
        return f"{function.name}({parameters})"


def resolve(algebraic_type: JsonType, typespace: list[JsonType]) -> JsonType:
    """The type behind references."""
    while "Ref" in algebraic_type:
        algebraic_type = typespace[algebraic_type["Ref"]]
    return algebraic_type


def display(algebraic_type: JsonType, typespace: list[JsonType]) -> str:
    """A type as a person writes it: `U32`, `Array<String>`, `Option<Identity>`, `{x: F32, y: F32}`."""
    resolved = resolve(algebraic_type, typespace)
    if "Array" in resolved:
        return f"Array<{display(resolved['Array'], typespace)}>"
    if "Product" in resolved:
        elements = resolved["Product"]["elements"]
        names = [element["name"].get("some", "") for element in elements]
        if len(names) == 1 and names[0] in SPECIAL_FIELDS:
            return SPECIAL_FIELDS[names[0]]
        fields = (f"{name}: {display(e['algebraic_type'], typespace)}" for name, e in zip(names, elements, strict=True))
        return "{" + ", ".join(fields) + "}"
    if "Sum" in resolved:
        variants = resolved["Sum"]["variants"]
        names = [variant["name"].get("some", "") for variant in variants]
        if names == ["some", "none"]:
            return f"Option<{display(variants[0]['algebraic_type'], typespace)}>"
        return "(" + " | ".join(names) + ")"
    return next(iter(resolved))


def _view_row(return_type: JsonType) -> JsonType:
    """The row type inside what a view returns: an array, an option, or a query of rows."""
    if "Array" in return_type:
        inner: JsonType = return_type["Array"]
    elif "Sum" in return_type:
        inner = return_type["Sum"]["variants"][0]["algebraic_type"]
    else:
        inner = return_type["Product"]["elements"][0]["algebraic_type"]
    return inner


SPECIAL_FIELDS = {
    "__identity__": "Identity",
    "__connection_id__": "ConnectionId",
    "__timestamp_micros_since_unix_epoch__": "Timestamp",
    "__time_duration_micros__": "TimeDuration",
    "__uuid__": "Uuid",
}
