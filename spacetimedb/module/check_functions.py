"""Checks of reducers, procedures and views: signatures, types, schedules."""

from __future__ import annotations

import inspect
from typing import Any, Final, get_args, get_origin

from spacetimedb.types import algebraic
from spacetimedb.types.algebraic import Product, ProductElement
from spacetimedb.types.shapes import UNIT_SHAPE, FieldShape, ProductShape

from .check import KEYS, Check
from .context import AnonymousViewContext, ProcedureContext, ReducerContext, ViewContext
from .declared import DeclaredFunction, function_place
from .query import Query
from .resolver import BadAnnotation, NamedType, Resolved, context_class, describe, function_annotations, is_key
from .rows import Row, wire_name
from .specs import ProcedureSpec, ReducerSpec, ViewForm, ViewSpec

CONTEXTS: Final = {"reducer": ReducerContext, "procedure": ProcedureContext}


class FunctionChecks:
    """Makes specs of functions; what is wrong goes to `check`.

    `params` and `view_columns` (source names of columns) are for the definition, by function source name.
    """

    def __init__(self, check: Check) -> None:
        self.check = check
        self.params: dict[str, Product] = {}
        self.view_columns: dict[str, list[str]] = {}

    def _signature(self, function: DeclaredFunction) -> tuple[dict[str, object], list[inspect.Parameter]] | None:
        """Annotations by name, and the parameters after the context; None when there is nothing to go on with."""
        place = function_place(function.function)
        shown = function.name
        if not inspect.isfunction(function.function):
            self.check.report(place, f"{shown} is no function")
            return None
        if inspect.iscoroutinefunction(function.function) or inspect.isasyncgenfunction(function.function):
            self.check.report(place, f"{shown}: async functions cannot run here; a {function.kind} is a plain def")
            return None
        if inspect.isgeneratorfunction(function.function):
            self.check.report(place, f"{shown}: a {function.kind} cannot be a generator; return a list")
            return None
        parameters = list(inspect.signature(function.function).parameters.values())
        sound = True
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                self.check.report(place, f"{shown}: *{parameter.name} has no type on the wire; name every parameter")
                sound = False
            elif parameter.kind is parameter.KEYWORD_ONLY:
                self.check.report(place, f"{shown}: parameter {parameter.name} must not be keyword-only")
                sound = False
            elif parameter.annotation is parameter.empty:
                self.check.report(place, f"{shown}: parameter {parameter.name} has no annotation")
                sound = False
        if not parameters:
            self.check.report(place, f"{shown}: the first parameter is the context")
            sound = False
        if not sound:
            return None
        try:
            return function_annotations(function.function, function.local_names), parameters[1:]
        except BadAnnotation as error:
            self.check.report(place, str(error))
            return None

    def _params(self, function: DeclaredFunction) -> tuple[dict[str, object], ProductShape] | None:
        """Annotations and arguments of a reducer or procedure."""
        signature = self._signature(function)
        if signature is None:
            return None
        annotations, parameters = signature
        place = function_place(function.function)
        problems = len(self.check.problems)
        context = CONTEXTS[function.kind]
        first = next(iter(annotations), "")
        if context_class(annotations.get(first)) is not context or first in [p.name for p in parameters]:
            self.check.report(place, f"{function.name}: the first parameter must be annotated {context.__name__}")
            return None
        if function.every:
            self._every_params(function, parameters)
        elements: list[ProductElement] = []
        fields: list[FieldShape] = []
        for name, annotation in self._arguments(function, annotations, parameters).items():
            try:
                resolved = self.check.resolver.resolve(annotation)
            except BadAnnotation as error:
                self.check.report_annotation(error, place, f"{function.name}: parameter {name}")
                continue
            elements.append(ProductElement(wire_name(name), resolved.type))
            fields.append(FieldShape(name, wire_name(name), resolved.shape))
        if function.schedule is not None and len(self.check.problems) == problems and not function.every:
            rows = [t.row for t in self.check.tables if t.key is function.schedule]
            if rows and [f.shape for f in fields] != [self.check.resolver.structure(rows[0]).resolved.shape]:
                text = f"{function.name}: a scheduled function takes one argument, a row of type {rows[0].__name__}"
                self.check.report(place, text)
        if len(self.check.problems) > problems:
            return None
        self.params[function.name] = Product(tuple(elements))
        return annotations, ProductShape(None, tuple(fields))

    def _arguments(
        self, function: DeclaredFunction, annotations: dict[str, object], parameters: list[inspect.Parameter]
    ) -> dict[str, object]:
        if function.every:
            return {"timer": function.schedule}
        return {p.name: annotations[p.name] for p in parameters}

    def _every_params(self, function: DeclaredFunction, parameters: list[inspect.Parameter]) -> None:
        if parameters:
            self.check.report(
                function_place(function.function), f"{function.name}: with @m.every it takes the context only"
            )

    def _schedule_name(self, function: DeclaredFunction) -> str | None:
        return next((t.name for t in self.check.tables if t.key is function.schedule), None)

    def reducer(self, function: DeclaredFunction) -> ReducerSpec | None:
        """None when something is wrong with it."""
        signed = self._params(function)
        if signed is None:
            return None
        annotations, params = signed
        place = function_place(function.function)
        if annotations.get("return") not in (None, type(None)):
            self.check.report(place, f"{function.name}: a reducer returns None; it answers with changes of tables")
        if function.lifecycle is not None and params.fields:
            self.check.report(place, f"{function.name}: a lifecycle function takes the context only")
        private = function.private or function.lifecycle is not None or function.schedule is not None
        return ReducerSpec(
            function.name,
            self.check.canonical(function),
            function.body,
            params,
            function.lifecycle,
            private,
            self._schedule_name(function),
        )

    def procedure(self, function: DeclaredFunction) -> ProcedureSpec | None:
        """None when something is wrong with it."""
        signed = self._params(function)
        if signed is None:
            return None
        annotations, params = signed
        place = function_place(function.function)
        if "return" not in annotations:
            self.check.report(place, f"{function.name}: the return type is missing")
            return None
        returns = annotations["return"]
        if returns in (None, type(None)):
            resolved = Resolved(algebraic.UNIT, UNIT_SHAPE)
        else:
            try:
                resolved = self.check.resolver.resolve(returns)
            except BadAnnotation as error:
                self.check.report_annotation(error, place, f"{function.name}: return type")
                return None
            if function.schedule is not None:
                self.check.report(place, f"{function.name}: a scheduled procedure returns None")
        return ProcedureSpec(
            function.name,
            self.check.canonical(function),
            function.body,
            params,
            resolved.shape,
            resolved.type,
            function.private or function.schedule is not None,
            self._schedule_name(function),
        )

    def view(self, function: DeclaredFunction) -> ViewSpec | None:
        """None when something is wrong with it."""
        signature = self._signature(function)
        if signature is None:
            return None
        annotations, parameters = signature
        place = function_place(function.function)
        context = context_class(next(iter(annotations.values())))
        if context not in (ViewContext, AnonymousViewContext):
            self.check.report(
                place, f"{function.name}: the first parameter must be ViewContext or AnonymousViewContext"
            )
            return None
        if parameters:
            self.check.report(place, f"{function.name}: a view takes the context only")
            return None
        returned = self._view_row(function, annotations)
        if returned is None:
            return None
        form, row = returned
        try:
            named = self.check.resolver.structure(row)
        except BadAnnotation as error:
            self.check.report_annotation(error, place, f"{function.name}: return type")
            return None
        if any(t.event and t.row is row for t in self.check.tables) and not any(
            t.row is row and not t.event for t in self.check.tables
        ):
            self.check.report(place, f"{function.name}: rows of an event table cannot be shown by a view")
        key = self._view_key(function, named)
        self.view_columns[function.name] = [wire_name(f.attr) for f in named.fields]
        shape = named.resolved.shape
        assert isinstance(shape, ProductShape)
        return ViewSpec(
            function.name,
            self.check.canonical(function),
            function.body,
            context is AnonymousViewContext,
            form,
            row,
            shape,
            named.ref,
            key,
        )

    def _view_row(
        self, function: DeclaredFunction, annotations: dict[str, object]
    ) -> tuple[ViewForm, type[Any]] | None:
        place = function_place(function.function)
        returns = annotations.get("return")
        form: ViewForm
        row: object
        if get_origin(returns) is Query:
            form, row = "query", get_args(returns)[0]
        elif get_origin(returns) is list:
            form, row = "list", get_args(returns)[0]
        else:
            members = [m for m in get_args(returns) if m is not type(None)]
            form, row = "option", members[0] if len(members) == 1 else None
        if not isinstance(row, type) or "__declaration__" not in vars(row):
            shown = "nothing" if returns is None else describe(returns)
            self.check.report(
                place, f"{function.name}: a view returns list[Row], Row | None or Query[Row], not {shown}"
            )
            return None
        if form == "query" and not issubclass(row, Row):
            self.check.report(place, f"{function.name}: a query returns rows of a table, {row.__name__} is none")
            return None
        return form, row

    def _view_key(self, function: DeclaredFunction, named: NamedType) -> int | None:
        if function.primary_key is None:
            return None
        place = function_place(function.function)
        for number, field in enumerate(named.fields):
            if field.attr == function.primary_key:
                if not is_key(field.resolved.shape):
                    self.check.report(place, f"{function.name}: {field.attr} cannot be a key; {KEYS}")
                return number
        self.check.report(place, f"{function.name}: {named.name} has no column {function.primary_key}")
        return None
