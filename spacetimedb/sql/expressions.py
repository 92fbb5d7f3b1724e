"""Expressions of the general SQL grammar: precedence climbing over a token list.

Everything that PostgreSQL's expression syntax offers in common use is read, most of it only to be quoted in a refusal
(``Other``). ``grammar`` adds queries and statements on top.

Limits: statements, queries and expressions within each other go LEVELS deep (which leaves 47 parentheses around an
expression of a query), right operands within each other NESTING: more gives ``recursion limit exceeded``. Chains of
operators cost no depth.
"""

from __future__ import annotations

from typing import Final, NoReturn

from spacetimedb.sql.errors import SqlSyntaxError
from spacetimedb.sql.lexer import Token, position, tokenize
from spacetimedb.sql.syntax import (
    Binary,
    Column,
    Function,
    Name,
    Nested,
    Other,
    Row,
    Tree,
    Unary,
    Value,
    depth_of,
    render,
)

LEVELS: Final = 50
NESTING: Final = 200


def words(text: str) -> frozenset[str]:
    """The words of ``text`` as a set."""
    return frozenset(text.split())


_OPERATORS: Final = {
    **dict.fromkeys(("=", "==", "<>", "!=", "<", ">", "<=", ">=", "<=>", "~", "~*", "!~", "!~*", "OPERATOR"), 20),
    "|": 21, "^": 22, "#": 22, "<<": 22, ">>": 22, "&": 23, "XOR": 24, "+": 30, "-": 30,
    "*": 40, "/": 40, "%": 40, "||": 40, "DIV": 40, "::": 50, "[": 50, "->": 50, "->>": 50, "#>": 50, "#>>": 50,
    "@>": 50, "<@": 50, "&&": 50, "OR": 5, "AND": 10, "AT": 20, "IS": 17, "IN": 20, "BETWEEN": 20, "LIKE": 19,
    "ILIKE": 19, "SIMILAR": 19, "NOT": 0,
}  # fmt: skip
_CANONICAL: Final = {"==": "=", "!=": "<>"}
_UNARY: Final = {"+": 40, "-": 40, "@": 30, "~": 30, "!": 30, "|/": 30}
_CALLS: Final = words("CAST TRY_CAST SAFE_CAST EXTRACT CEIL FLOOR POSITION SUBSTRING OVERLAY TRIM LISTAGG ARRAY_AGG")
_BARE_CALLS: Final = words("CURRENT_CATALOG CURRENT_USER SESSION_USER USER")
_TIME_CALLS: Final = words("CURRENT_TIMESTAMP CURRENT_TIME CURRENT_DATE LOCALTIME LOCALTIMESTAMP")
_TYPE_WORDS: Final = words(
    "BOOLEAN BOOL INT INTEGER BIGINT SMALLINT TINYINT INT2 INT4 INT8 FLOAT FLOAT4 FLOAT8 REAL DOUBLE PRECISION "
    "NUMERIC DECIMAL DEC VARCHAR CHAR CHARACTER VARYING TEXT STRING BYTEA UUID DATE TIME TIMESTAMP TIMESTAMPTZ "
    "TIMETZ DATETIME JSON JSONB UNSIGNED"
)
_KEYWORDS: Final = _TYPE_WORDS | words(
    "ADD ALL ALTER ANALYZE AND ANY AS ASC BEGIN BETWEEN BY CALL CASCADE CASE CAST CHECK CLOSE COLUMN COMMENT "
    "COMMIT CONFLICT CONSTRAINT COPY CREATE CROSS DATABASE DEALLOCATE DECLARE DEFAULT DELETE DESC DISCARD "
    "DISTINCT DO DROP ELSE END EXCEPT EXECUTE EXISTS EXPLAIN FETCH FIRST FOR FOREIGN FROM FULL FUNCTION GRANT "
    "GROUP HAVING IF IN INDEX INNER INSERT INTERSECT INTO IS JOIN KEY LEFT LIKE LIMIT LOCAL LOCK MERGE NATURAL NEXT "
    "NOT NOTHING NULL OFFSET ON ONLY OR ORDER OUTER PREPARE PRIMARY REFERENCES RELEASE RENAME REPLACE RESTRICT "
    "RETURNING REVOKE RIGHT ROLLBACK ROW ROWS SAVEPOINT SCHEMA SELECT SEQUENCE SET SHOW SOME START TABLE "
    "TEMPORARY THEN TO TRANSACTION TRIGGER TRUNCATE TYPE UNION UNIQUE UPDATE USE USING VALUES VIEW WHEN WHERE "
    "WITH WORK"
)


class Expressions:
    """A cursor over the tokens of one text, with the expression grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.at = 0
        # One more for each step that a look ahead may go past the end.
        self._uppers = [
            token.text.upper() if token.kind == "word" else token.text if token.kind == "op" else ""
            for token in self.tokens
        ] + [""] * 4
        self._levels = 0
        self._nesting = 0

    # ---- cursor ----

    @property
    def token(self) -> Token:
        """The next token; ``end`` for ever at the end."""
        return self.tokens[self.at]

    def next(self) -> Token:
        """Takes one token."""
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def upper(self, ahead: int = 0) -> str:
        """The token as upper-case keyword if it is a bare word, its text if it is an operator, else ''."""
        return self._uppers[self.at + ahead]

    def accept(self, *words: str) -> bool:
        """Takes all of these keywords or operators in a row (at most 4), or nothing."""
        at = self.at
        for word in words:
            if self._uppers[at] != word:
                return False
            at += 1
        self.at = at
        return True

    def expect(self, *words: str) -> None:
        """Takes these keywords or operators; raises SqlSyntaxError at the first that is not there."""
        for word in words:
            if self.upper() != word:
                self.fail(word)
            self.at += 1

    def fail(self, expected: str) -> NoReturn:
        """Raises the error for an unexpected token."""
        kind, text, at = self.token
        where = "" if kind == "end" else position(self.text, at)
        shown = (
            "EOF" if kind == "end" else f"'{text}'" if kind == "string" else f'"{text}"' if kind == "quoted" else text
        )
        raise SqlSyntaxError(f"sql parser error: Expected {expected}, found: {shown}{where}")

    def identifier(self) -> Name:
        """An identifier; any word will do."""
        kind, text, _ = self.token
        if kind not in ("word", "quoted", "string"):
            self.fail("identifier")
        self.at += 1
        return Name(text, kind != "word")

    def object_name(self) -> tuple[Name, ...]:
        """``a.b.c``."""
        parts = [self.identifier()]
        while self.accept("."):
            parts.append(self.identifier())
        return tuple(parts)

    def captured(self, start: int, calls: bool = True) -> str:
        """The tokens from ``start`` up to here, spelled canonically: keywords upper case, usual spaces.

        ``calls`` says that a parenthesis after a name belongs to it (``f(x)``), not to a column list (``t (a, b)``).
        """
        out = ""
        glue = True
        for kind, text, _ in self.tokens[start : self.at]:
            if kind == "word" and text.upper() in _KEYWORDS:
                text = text.upper()
            elif kind == "string":
                text = "'" + text.replace("'", "''") + "'"
            elif kind == "quoted":
                text = '"' + text.replace('"', '""') + '"'
            elif kind == "hex":
                text = f"X'{text}'"
            tight = kind == "op" and text in (")", ",", ".", ";", "]", "::", "[")
            call = calls and text == "(" and out[-1:].isalnum() and out.rsplit(" ", 1)[-1] not in _KEYWORDS
            out += text if glue or tight or call else " " + text
            glue = kind == "op" and text in ("(", ".", "::", "[")
        return out

    def balanced(self) -> None:
        """Takes ``( ... )`` with whatever is in it."""
        self.expect("(")
        depth = 1
        while depth:
            token = self.next()
            if token.kind == "end":
                self.fail(")")
            if token.kind == "op":
                depth += (token.text == "(") - (token.text == ")")

    # ---- expressions ----

    def expression(self) -> Tree:
        """A whole expression."""
        self.enter()
        out = self._climb(0)
        self.leave()
        return out

    def enter(self) -> None:
        """Goes one level deeper; raises SqlSyntaxError if that is too deep."""
        self._levels += 1
        if self._levels > LEVELS:
            raise SqlSyntaxError("sql parser error: recursion limit exceeded")

    def leave(self) -> None:
        """Comes back from ``enter``."""
        self._levels -= 1

    def expressions(self) -> list[Tree]:
        """One or more, separated by commas."""
        out = [self.expression()]
        while self.accept(","):
            out.append(self.expression())
        return out

    def subquery(self) -> str:
        """A query, rendered; the grammar of queries replaces this."""
        raise NotImplementedError

    def _climb(self, minimum: int) -> Tree:
        self._nesting += 1
        if self._nesting > NESTING:
            raise SqlSyntaxError("sql parser error: recursion limit exceeded")
        left = self._prefix()
        while True:
            operator = self.upper()
            precedence = _OPERATORS.get(operator, 0)
            if operator == "NOT":
                following = self.upper(1)
                precedence = (
                    20 if following in ("IN", "BETWEEN") else 19 if following in ("LIKE", "ILIKE", "SIMILAR") else 0
                )
            if precedence <= minimum:
                break
            left = self._infix(left, operator, precedence)
        self._nesting -= 1
        return left

    def _infix(self, left: Tree, operator: str, precedence: int) -> Tree:
        negated = ""
        if operator == "NOT":
            self.at += 1
            negated = "NOT "
            operator = self.upper()
        self.at += 1
        match operator:
            case "IS":
                start = self.at - 1
                self.accept("NOT")
                if self.accept("DISTINCT", "FROM"):
                    return Other(f"{render(left)} {self.captured(start)} {render(self._climb(precedence))}")
                if self.upper() not in ("NULL", "TRUE", "FALSE", "UNKNOWN"):
                    self.fail("[NOT] NULL or TRUE|FALSE or [NOT] DISTINCT FROM after IS")
                self.at += 1
                return Other(f"{render(left)} {self.captured(start).upper()}")
            case "IN":
                self.expect("(")
                if self.upper() in ("SELECT", "WITH"):
                    inner = self.subquery()
                else:
                    inner = ", ".join(map(render, self.expressions())) if self.upper() != ")" else ""
                self.expect(")")
                return Other(f"{render(left)} {negated}IN ({inner})")
            case "BETWEEN":
                low = self._climb(precedence)
                self.expect("AND")
                return Other(f"{render(left)} {negated}BETWEEN {render(low)} AND {render(self._climb(precedence))}")
            case "LIKE" | "ILIKE" | "SIMILAR":
                if operator == "SIMILAR":
                    self.expect("TO")
                    operator = "SIMILAR TO"
                text = f"{render(left)} {negated}{operator} {render(self._climb(precedence))}"
                return Other(f"{text} ESCAPE {render(self.expression())}" if self.accept("ESCAPE") else text)
            case "AT":
                self.expect("TIME", "ZONE")
                return Other(f"{render(left)} AT TIME ZONE {render(self._climb(precedence))}")
            case "::":
                return Other(f"CAST({render(left)} AS {self._type()})")
            case "[":
                index = self.expression()
                self.expect("]")
                return Other(f"{render(left)}[{render(index)}]")
            case "->" | "->>" | "#>" | "#>>" | "@>" | "<@":
                return Other(f"{render(left)} {operator} {render(self._climb(precedence))}")
            case "OPERATOR":
                start = self.at - 1
                self.balanced()
                operator = self.captured(start)
        if precedence == 20 and self.upper() in ("ANY", "ALL"):
            word = self.next().text.upper()
            self.expect("(")
            inner = render(self.expression())
            self.expect(")")
            return Other(f"{render(left)} {_CANONICAL.get(operator, operator)} {word}({inner})")
        right = self._climb(precedence)
        return Binary(_CANONICAL.get(operator, operator), left, right, 1 + max(depth_of(left), depth_of(right)))

    def _prefix(self) -> Tree:
        kind, text, _ = token = self.token
        match kind:
            case "number" | "string" | "hex":
                self.at += 1
                return Value(kind, text)
            case "word":
                return self._word(token)
            case "quoted":
                return self._name()
            case "national" | "escape":
                self.at += 1
                return Value("other", f"{kind[0].upper()}'{text}'")
            case "dollar" | "placeholder":
                self.at += 1
                return Value("placeholder", text)
            case "op":
                return self._punctuation(text)
        self.fail("an expression:")

    def _punctuation(self, text: str) -> Tree:
        if text == "(":
            return self._parenthesis()
        if text == ":":
            self.at += 1
            if self.token.kind not in ("word", "number"):
                self.fail("placeholder")
            return Value("placeholder", ":" + self.next().text)
        if text in _UNARY:
            operators = ""
            while self.upper() in _UNARY:
                text = self.next().text
                operators += text
            return Unary(operators, self._climb(_UNARY[text]))
        self.fail("an expression:")

    def _parenthesis(self) -> Tree:
        self.at += 1
        out: Tree
        if self.upper() in ("SELECT", "WITH"):
            out = Other(f"({self.subquery()})")
        else:
            inner = self.expressions()
            if len(inner) > 1:
                out = Row(f"({', '.join(map(render, inner))})", "row", tuple(inner))
            else:
                out = Nested(inner[0], 1 + depth_of(inner[0]))
        self.expect(")")
        return out

    def _word(self, token: Token) -> Tree:
        start = self.at
        word = token.text.upper()
        after = self.tokens[self.at + 1]
        if after.kind == "string" and word in _TYPE_WORDS:
            self.at += 2
            return Other(self.captured(start))
        if word in ("TRUE", "FALSE", "NULL"):
            self.at += 1
            return Value("null", "NULL") if word == "NULL" else Value("bool", word.lower())
        if word == "NOT":
            operators = ""
            while self.accept("NOT"):
                operators += "NOT "
            if self.accept("EXISTS"):
                return Other(f"{operators}EXISTS {self._subquery()}")
            return Unary(operators, self._climb(15))
        if word == "EXISTS":
            self.at += 1
            return Other(f"EXISTS {self._subquery()}")
        if word == "CASE":
            return self._case()
        if word == "INTERVAL":
            self.at += 1
            value = render(self._prefix())
            return Other(f"INTERVAL {value}")
        if word in _CALLS:
            self.at += 1
            self.balanced()
            head, _, tail = self.captured(start).partition("(")
            return Other(f"{head.strip().upper()}({tail}")
        if word in _BARE_CALLS:
            self.at += 1
            return Function(token.text)
        if word in _TIME_CALLS:
            self.at += 1
            if self.upper() == "(":
                self.balanced()
            return Function(self.captured(start))
        if word == "ARRAY" and after.text in ("[", "(") and after.kind == "op":
            return self._array(start)
        return self._name()

    def _name(self) -> Tree:
        parts = [self._part()]
        while self.upper() == "." and self.upper(1) != "*":
            self.at += 1
            if self.token.kind not in ("word", "quoted", "string"):
                self.fail("an identifier or a '*' after '.'")
            parts.append(self.identifier())
        if self.upper() == "(":
            return self._call(tuple(parts))
        return Column(tuple(parts))

    def _part(self) -> Name:
        kind, text, _ = self.next()
        return Name(text, kind == "quoted")

    def _call(self, name: tuple[Name, ...]) -> Function:
        self.at += 1
        head = ".".join(map(str, name)) + "("
        if self.accept("*"):
            self.expect(")")
            return Function(head + "*)", len(name) == 1 and name[0].text.upper() == "COUNT")
        distinct = "DISTINCT " if self.accept("DISTINCT") else ""
        if not distinct:
            self.accept("ALL")
        arguments = self.expressions() if self.upper() != ")" else []
        inner = ", ".join(map(render, arguments))
        self.expect(")")
        start = self.at
        while self.upper() in ("OVER", "FILTER"):
            self.at += 1
            if self.upper() == "(":
                self.balanced()
            else:
                self.identifier()
        tail = self.captured(start)
        text = f"{head}{distinct}{inner})" + (" " + tail if tail else "")
        if tail or distinct or len(name) > 1:
            return Function(text)
        return Function(text, False, name[0].text, tuple(arguments))

    def _subquery(self) -> str:
        self.expect("(")
        inner = self.subquery()
        self.expect(")")
        return f"({inner})"

    def _case(self) -> Other:
        self.at += 1
        out = "CASE"
        if self.upper() != "WHEN":
            out += " " + render(self.expression())
        if self.upper() != "WHEN":
            self.fail("WHEN")
        while self.accept("WHEN"):
            out += f" WHEN {render(self.expression())}"
            self.expect("THEN")
            out += f" THEN {render(self.expression())}"
        if self.accept("ELSE"):
            out += f" ELSE {render(self.expression())}"
        self.expect("END")
        return Other(out + " END")

    def _array(self, start: int) -> Tree:
        self.at += 1
        if self.upper() == "(":
            return Other(f"ARRAY{self._subquery()}")
        self.at += 1
        items = self.expressions() if self.upper() != "]" else []
        self.expect("]")
        return Row(self.captured(start), "array", tuple(items))

    def _type(self) -> str:
        start = self.at
        self.identifier()
        while self.upper() in ("PRECISION", "VARYING"):
            self.at += 1
        if self.upper() == "(":
            self.balanced()
        while self.accept("[", "]"):
            pass
        return self.captured(start)
