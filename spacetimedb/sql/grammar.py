"""Queries and statements of the general SQL grammar, as trees that ``parser`` then accepts or refuses.

It reads more than the server runs, because what it refuses it has to quote: a refused GROUP BY is answered with the
query in canonical spelling, text that is no SQL with ``sql parser error: Expected ..., found: ...``.
"""

from __future__ import annotations

from typing import Final

from spacetimedb.sql.expressions import Expressions, words
from spacetimedb.sql.syntax import (
    DeleteTree,
    ExplainTree,
    FromItem,
    InsertTree,
    Item,
    JoinClause,
    Name,
    OtherStatement,
    QueryTree,
    SelectTree,
    SetTree,
    ShowTree,
    Source,
    Star,
    StatementTree,
    Tree,
    UpdateTree,
    render,
    render_query,
)

TABLE_ALIAS_RESERVED: Final = words(
    "ANALYZE AS CLUSTER CROSS DISTRIBUTE EXCEPT EXPLAIN FETCH FULL GROUP HAVING INNER INTERSECT JOIN LATERAL "
    "LEFT LIMIT NATURAL OFFSET ON ORDER OUTER PARTITION PIVOT QUALIFY RIGHT SELECT SET SORT TOP UNION USING "
    "VIEW WHERE WINDOW WITH"
)
COLUMN_ALIAS_RESERVED: Final = words(
    "ANALYZE AND AS BETWEEN CLUSTER COLLATE DISTRIBUTE DIV END EXCEPT EXPLAIN FETCH FROM GROUP HAVING ILIKE IN "
    "INTERSECT INTO IS LATERAL LIKE LIMIT OFFSET OPERATOR OR ORDER SELECT SIMILAR SORT TOP UNION VIEW WHERE "
    "WITH XOR"
)
_REFUSED: Final = words(
    "CREATE DROP ALTER TRUNCATE BEGIN START COMMIT END ROLLBACK ABORT GRANT REVOKE COPY ANALYZE USE KILL MERGE "
    "CALL PREPARE EXECUTE DEALLOCATE DECLARE FETCH CLOSE DISCARD COMMENT SAVEPOINT RELEASE ASSERT CACHE UNCACHE "
    "MSCK REPLACE PRAGMA DESCRIBE DESC"
)


class Grammar(Expressions):
    """The parser of one text."""

    def statements(self) -> list[StatementTree]:
        """All statements, separated by any number of semicolons."""
        out: list[StatementTree] = []
        while True:
            separated = not out
            while self.accept(";"):
                separated = True
            if self.token.kind == "end":
                return out
            if not separated:
                self.fail("end of statement")
            out.append(self._statement())

    def subquery(self) -> str:
        return render_query(self._query())

    def _statement(self) -> StatementTree:
        self.enter()
        out = self._any_statement()
        self.leave()
        return out

    def _any_statement(self) -> StatementTree:
        word = self.upper()
        start = self.at
        if word in ("SELECT", "WITH", "VALUES", "("):
            return self._query()
        match word:
            case "INSERT":
                return self._insert()
            case "UPDATE":
                return self._update()
            case "DELETE":
                return self._delete()
            case "SET":
                return self._set()
            case "SHOW":
                return self._show()
            case "EXPLAIN":
                self.at += 1
                while self.upper() in ("ANALYZE", "VERBOSE"):
                    self.at += 1
                head = self.captured(start)
                is_plain = self.at == start + 1
                first = self.token.at
                inner = self._statement()
                if not isinstance(inner, QueryTree):
                    return OtherStatement(f"{head} ...")
                text = f"{head} {render_query(inner)}"
                if not is_plain:
                    return OtherStatement(text)
                return ExplainTree(inner, text, self.text[first : self.token.at].strip())
        if word not in _REFUSED:
            self.fail("an SQL statement")
        while self.token.kind != "end" and self.upper() != ";":
            self.at += 1
        text = self.captured(start, calls=self.tokens[start + 1].text.upper() != "TABLE")
        if word == "COPY" and text.upper().endswith("FROM STDIN"):
            self.expect(";")
        if text.upper() in ("BEGIN", "BEGIN TRANSACTION", "BEGIN WORK"):
            text = "BEGIN TRANSACTION"
        return OtherStatement(text)

    # ---- queries ----

    def _query(self) -> QueryTree:
        self.enter()
        out = self._whole_query()
        self.leave()
        return out

    def _whole_query(self) -> QueryTree:
        start = self.at
        with_clause = ""
        if self.accept("WITH"):
            self.accept("RECURSIVE")
            while True:
                self.identifier()
                if self.upper() == "(":
                    self.balanced()
                self.expect("AS")
                self.balanced()
                if not self.accept(","):
                    break
            with_clause = self.captured(start) + " "
        query = self._body()
        query.with_clause = with_clause
        start = self.at
        if self.accept("ORDER", "BY"):
            query.order = self._order()
            query.order_by = " " + self.captured(start)
        for _ in range(2):
            if self.accept("LIMIT"):
                query.limit = None if self.accept("ALL") else self.expression()
            start = self.at
            if self.accept("OFFSET"):
                query.offset_rows = self.expression()
                if self.upper() in ("ROW", "ROWS"):
                    self.at += 1
                query.offset = " " + self.captured(start)
        if self.accept("FETCH"):
            query.fetch = self._fetch()
        start = self.at
        while self.accept("FOR"):
            if self.upper() not in ("UPDATE", "SHARE"):
                self.fail("one of UPDATE or SHARE")
            self.at += 1
            query.locks = " " + self.captured(start)
        return query

    def _order(self) -> list[tuple[Tree, bool]] | None:
        """What follows ORDER BY; None if there is more in it than ASC and DESC."""
        order: list[tuple[Tree, bool]] = []
        is_plain = True
        while True:
            tree = self.expression()
            descending = False
            while self.upper() in ("ASC", "DESC", "NULLS", "FIRST", "LAST"):
                word = self.next().text.upper()
                descending = word == "DESC"
                is_plain &= word in ("ASC", "DESC")
            order.append((tree, descending))
            if not self.accept(","):
                return order if is_plain else None

    def _fetch(self) -> str:
        if self.upper() not in ("FIRST", "NEXT"):
            self.fail("one of FIRST or NEXT")
        self.at += 1
        count = "" if self.upper() in ("ROW", "ROWS") else render(self.expression()) + " "
        if self.upper() not in ("ROW", "ROWS"):
            self.fail("one of ROW or ROWS")
        self.at += 1
        if self.accept("WITH", "TIES"):
            return f" FETCH FIRST {count}ROWS WITH TIES"
        self.expect("ONLY")
        return f" FETCH FIRST {count}ROWS ONLY"

    def _body(self) -> QueryTree:
        query = self._operand()
        while self.upper() in ("UNION", "EXCEPT", "INTERSECT"):
            operator = self.next().text.upper()
            if self.upper() in ("ALL", "DISTINCT"):
                operator += " " + self.next().text.upper()
            query = QueryTree(f"{render_query(query)} {operator} {render_query(self._operand())}")
        return query

    def _operand(self) -> QueryTree:
        if self.accept("SELECT"):
            return QueryTree(self._select())
        start = self.at
        if self.accept("VALUES"):
            rows = [self._row()]
            while self.accept(","):
                rows.append(self._row())
            return QueryTree(self.captured(start), rows)
        if self.upper() == "(":
            self.at += 1
            inner = self.subquery()
            self.expect(")")
            return QueryTree(f"({inner})")
        self.fail("SELECT, VALUES, or a subquery in the query body")

    def _row(self) -> list[Tree]:
        self.accept("ROW")
        self.expect("(")
        row = [] if self.upper() == ")" else self.expressions()
        self.expect(")")
        return row

    def _select(self) -> SelectTree:
        before = ""
        start = self.at
        if self.accept("DISTINCT"):
            if self.accept("ON"):
                self.balanced()
            before = self.captured(start) + " "
        else:
            self.accept("ALL")
        if self.accept("TOP"):
            before += f"TOP ({render(self._prefix())}) "
        items = [self._item()]
        while self.accept(","):
            items.append(self._item())
        start = self.at
        if self.accept("INTO"):
            self.object_name()
        into = self.captured(start)
        tables = self._from_list() if self.accept("FROM") else []
        where = self.expression() if self.accept("WHERE") else None
        after, group = self._after_where()
        return SelectTree(items, tables, where, before, into, after, group)

    def _after_where(self) -> tuple[str, list[Tree] | None]:
        """What follows WHERE, and what is grouped by if that is all there is."""
        out = ""
        group: list[Tree] | None = None
        while True:
            start = self.at
            if self.upper() in ("GROUP", "CLUSTER", "DISTRIBUTE", "SORT") and self.upper(1) == "BY":
                self.at += 2
                found = self.expressions()
                group = found if not out and self.tokens[start].text.upper() == "GROUP" else None
            elif self.accept("HAVING") or self.accept("QUALIFY"):
                self.expression()
                group = None
            elif self.accept("WINDOW"):
                self.identifier()
                self.expect("AS")
                self.balanced()
                group = None
            else:
                return out, group
            out += " " + self.captured(start)

    def _item(self) -> Star | Item:
        if self.accept("*"):
            return Star(None)
        ahead = 0
        while self.tokens[self.at + ahead].kind in ("word", "quoted", "string") and self.upper(ahead + 1) == ".":
            ahead += 2
            if self.upper(ahead) == "*":
                table = []
                for _ in range(ahead // 2):
                    table.append(self.identifier())
                    self.at += 1
                self.at += 1
                return Star(tuple(table))
        return Item(self.expression(), self._alias(COLUMN_ALIAS_RESERVED))

    def _alias(self, reserved: frozenset[str]) -> Name | None:
        if self.accept("AS"):
            return self.identifier()
        kind, text, _ = self.token
        if kind in ("quoted", "string") or (kind == "word" and text.upper() not in reserved):
            return self.identifier()
        return None

    def _from_list(self) -> list[FromItem]:
        out = [self._from_item()]
        while self.accept(","):
            out.append(self._from_item())
        return out

    def _from_item(self) -> FromItem:
        item = FromItem(self._source(), [])
        while (kind := self._join_kind()) is not None:
            source = self._source()
            join = JoinClause(kind, source)
            start = self.at
            if kind.startswith("NATURAL") or kind in ("CROSS JOIN", "CROSS APPLY", "OUTER APPLY"):
                pass
            elif self.accept("ON"):
                join.on = self.expression()
            elif self.accept("USING"):
                self.balanced()
                join.using = " " + self.captured(start)
            item.joins.append(join)
        return item

    def _join_kind(self) -> str | None:
        """Takes the words of a join up to and including JOIN; None if no join follows."""
        for kind in ("CROSS JOIN", "CROSS APPLY", "OUTER APPLY"):
            if self.accept(*kind.split()):
                return kind
        natural = "NATURAL " if self.accept("NATURAL") else ""
        if self.accept("INNER"):
            self.expect("JOIN")
            return natural + "JOIN"
        if self.accept("JOIN"):
            return natural + "JOIN"
        for side in ("LEFT", "RIGHT", "FULL"):
            if self.accept(side):
                if not self.accept("OUTER") and self.upper() in ("SEMI", "ANTI"):
                    side += " " + self.next().text.upper()
                self.expect("JOIN")
                return f"{natural}{side} JOIN"
        if natural:
            self.fail("a join type after NATURAL")
        return None

    def _source(self) -> Source:
        start = self.at
        plain = False
        name: tuple[Name, ...] | None = None
        if self.accept("LATERAL"):
            if self.upper() != "(":
                self.object_name()
            self.balanced()
        elif self.upper() in ("TABLE", "UNNEST"):
            self.at += 1
            self.balanced()
        elif self.upper() == "(":
            self.at += 1
            if self.upper() in ("SELECT", "WITH", "VALUES"):
                head = f"({self.subquery()})"
            else:
                self.enter()
                head = "(" + self._from_item().source.text + ")"
                self.leave()
            self.expect(")")
            alias = self._alias(TABLE_ALIAS_RESERVED)
            return Source(head + (f" AS {alias}" if alias else ""), None)
        else:
            name = self.object_name()
            plain = self.upper() != "("
            if not plain:
                self.balanced()
        head = self.captured(start) if not plain else ".".join(map(str, name or ()))
        alias = self._alias(TABLE_ALIAS_RESERVED)
        if alias is not None:
            head += f" AS {alias}"
            if self.upper() == "(":
                start = self.at
                self.balanced()
                head += f" {self.captured(start)}"
                plain = False
        return Source(head, name if plain else None, alias)

    # ---- other statements ----

    def _insert(self) -> InsertTree:
        start = self.at
        self.at += 1
        odd = False
        if self.accept("OR"):
            self.at += 1
            odd = True
        self.accept("INTO")
        odd = self.accept("TABLE") or odd
        table = self.object_name()
        if self.accept("AS"):
            self.identifier()
            odd = True
        columns: list[Name] = []
        if self.accept("("):
            columns.append(self.identifier())
            while self.accept(","):
                columns.append(self.identifier())
            self.expect(")")
        source = None if self.accept("DEFAULT", "VALUES") else self._query()
        text = self.captured(start, calls=False)
        start = self.at
        if self.accept("ON"):
            odd = True
            self.expect("CONFLICT")
            while self.token.kind != "end" and self.upper() not in (";", "RETURNING"):
                self.at += 1
            text += "  " + self.captured(start)
        text, returning = self._returning(text)
        return InsertTree(table, columns, source, odd or returning, text)

    def _returning(self, text: str) -> tuple[str, bool]:
        start = self.at
        if not self.accept("RETURNING"):
            return text, False
        self._item()
        while self.accept(","):
            self._item()
        return f"{text} {self.captured(start)}", True

    def _update(self) -> UpdateTree:
        start = self.at
        self.at += 1
        table = self._from_item()
        self.expect("SET")
        assignments = [self._assignment()]
        while self.accept(","):
            assignments.append(self._assignment())
        odd = False
        if self.accept("FROM"):
            self._from_item()
            odd = True
        where = self.expression() if self.accept("WHERE") else None
        text, returning = self._returning(self.captured(start))
        odd = odd or returning or bool(table.joins) or table.source.alias is not None or table.source.name is None
        if table.source.alias is not None:
            text = text.replace(f" {table.source.alias} SET", f" AS {table.source.alias} SET", 1).replace(
                "AS AS", "AS", 1
            )
        return UpdateTree(table, assignments, where, odd, text)

    def _assignment(self) -> tuple[list[Name], Tree]:
        target: list[Name] = []
        while self.token.kind != "end" and self.upper() != "=":
            kind, text, _ = self.next()
            if kind in ("word", "quoted"):
                target.append(Name(text, kind == "quoted"))
        self.expect("=")
        return target, self.expression()

    def _delete(self) -> DeleteTree:
        start = self.at
        self.at += 1
        odd = False
        if not self.accept("FROM"):
            odd = True
            self.object_name()
            while self.accept(","):
                self.object_name()
            self.expect("FROM")
        tables = self._from_list()
        if self.accept("USING"):
            self._from_list()
            odd = True
        where = self.expression() if self.accept("WHERE") else None
        text, returning = self._returning(self.captured(start))
        return DeleteTree(tables, where, odd or returning, text)

    def _set(self) -> StatementTree:
        start = self.at
        self.at += 1
        odd = False
        if self.upper() in ("SESSION", "LOCAL", "HIVEVAR") and self.upper(1) not in ("=", "TO"):
            odd = self.next().text.upper() != "SESSION"
        if self.upper() in ("TRANSACTION", "CHARACTERISTICS", "ROLE", "NAMES") and self.upper(1) not in ("=", "TO"):
            while self.token.kind != "end" and self.upper() != ";":
                self.at += 1
            return OtherStatement(self.captured(start))
        variable = ".".join(part.text for part in self.object_name())
        if not self.accept("=") and not self.accept("TO"):
            self.fail("equals sign or TO")
        values = self.expressions()
        text = self.captured(start)
        return SetTree(variable, values, odd or len(values) > 1, text)

    def _show(self) -> StatementTree:
        start = self.at
        self.at += 1
        if self.upper() in ("TABLES", "COLUMNS", "FUNCTIONS", "COLLATION", "CREATE", "EXTENDED", "FULL"):
            while self.token.kind != "end" and self.upper() != ";":
                self.at += 1
            return OtherStatement(self.captured(start).upper())
        words: list[str] = []
        while self.token.kind != "end" and self.upper() not in (";", "="):
            kind, text, _ = self.next()
            if kind in ("word", "quoted"):
                words.append(text)
        return ShowTree(".".join(words))
