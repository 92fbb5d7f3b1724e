"""The schema route's answer (version 10) as the command line needs it: functions with parameters, tables with types.

Types stay in their JSON form, e.g. `{"U32": []}`, `{"Ref": 3}`, `{"Product": {"elements": [...]}}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

JsonType = dict[str, Any]


class Function(msgspec.Struct, frozen=True):
    name: str
    kind: str  # 'reducer' or 'procedure'
    parameters: tuple[tuple[str, JsonType], ...]
    callable: bool  # False: lifecycle and private functions


class TableEntry(msgspec.Struct, frozen=True):
    name: str
    type_ref: int
    is_public: bool
    raw: dict[str, Any]


class Schema:
    """`types`: the typespace; `functions` and `tables` by canonical name, in the order of the definition."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        sections: dict[str, Any] = {}
        for section in body.get("sections", []):
            sections.update(section)
        canonical: dict[tuple[str, str], str] = {}
        for entry in sections.get("ExplicitNames", {}).get("entries", []):
            for kind, names in entry.items():
                if kind in ("Table", "Function"):
                    canonical[kind, names["source_name"]] = names["canonical_name"]
        self.types: list[JsonType] = sections.get("Typespace", {}).get("types", [])
        self.tables: dict[str, TableEntry] = {}
        for table in sections.get("Tables", []):
            name = canonical.get(("Table", table["source_name"]), table["source_name"])
            self.tables[name] = TableEntry(name, table["product_type_ref"], "Public" in table["table_access"], table)
        self.functions: dict[str, Function] = {}
        self.raw_functions: dict[str, dict[str, Any]] = {}
        lifecycle = {entry["function_name"] for entry in sections.get("LifeCycleReducers", [])}
        for kind, section in (("reducer", "Reducers"), ("procedure", "Procedures")):
            for function in sections.get(section, []):
                name = canonical.get(("Function", function["source_name"]), function["source_name"])
                parameters = tuple(
                    (element["name"].get("some", str(n)), element["algebraic_type"])
                    for n, element in enumerate(function["params"]["elements"])
                )
                callable_ = name not in lifecycle and "Private" not in function.get("visibility", {})
                self.functions[name] = Function(name, kind, parameters, callable_)
                self.raw_functions[name] = function

    def row_type(self, table: str) -> JsonType:
        return self.types[self.tables[table].type_ref]

    def resolve(self, algebraic_type: JsonType) -> JsonType:
        """The type behind references."""
        while "Ref" in algebraic_type:
            algebraic_type = self.types[algebraic_type["Ref"]]
        return algebraic_type

    def is_string(self, algebraic_type: JsonType) -> bool:
        return "String" in self.resolve(algebraic_type)

    def display(self, algebraic_type: JsonType) -> str:
        """A type as a person writes it: `u32`, `Array<String>`, `Option<Identity>`, `{x: F32, y: F32}`."""
        resolved = self.resolve(algebraic_type)
        if "Array" in resolved:
            return f"Array<{self.display(resolved['Array'])}>"
        if "Product" in resolved:
            elements = resolved["Product"]["elements"]
            names = [element["name"].get("some", "") for element in elements]
            if len(names) == 1 and names[0] in SPECIAL_FIELDS:
                return SPECIAL_FIELDS[names[0]]
            fields = (f"{name}: {self.display(e['algebraic_type'])}" for name, e in zip(names, elements, strict=True))
            return "{" + ", ".join(fields) + "}"
        if "Sum" in resolved:
            variants = resolved["Sum"]["variants"]
            names = [variant["name"].get("some", "") for variant in variants]
            if names == ["some", "none"]:
                return f"Option<{self.display(variants[0]['algebraic_type'])}>"
            return "(" + " | ".join(names) + ")"
        return next(iter(resolved))

    def signature(self, function: Function) -> str:
        parameters = ", ".join(f"{name}: {self.display(kind)}" for name, kind in function.parameters)
        return f"{function.name}({parameters})"


SPECIAL_FIELDS = {
    "__identity__": "Identity",
    "__connection_id__": "ConnectionId",
    "__timestamp_micros_since_unix_epoch__": "Timestamp",
    "__time_duration_micros__": "TimeDuration",
    "__uuid__": "Uuid",
}
