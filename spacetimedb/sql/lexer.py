"""SQL text to tokens.

Kinds of tokens: ``word``, ``quoted`` (identifier, text unescaped), ``number`` (text as written, without the suffix
L), ``string`` (unescaped), ``hex`` (digits of ``0x..`` or ``X'..'``), ``national`` N'..', ``escape`` E'..', ``dollar``
$$..$$, ``placeholder`` ($1, ?), ``op`` (punctuation and operators), ``end`` (last token of every list).

Identifiers keep their case. Comments (``--`` and nested ``/* */``) vanish. A text is at most 50,000 bytes (the parser
checks), so the list is at most that long.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from spacetimedb.sql.errors import SqlSyntaxError


class Token(NamedTuple):
    """One token; ``at`` is its character position in the text."""

    kind: str
    text: str
    at: int


_PATTERN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<block>/\*)
  | (?P<hex>0x[0-9a-fA-F]*)
  | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<prefixed>[xXnNeE]'(?:[^']|'')*')
  | (?P<word>[^\W\d][\w$]*)
  | "(?P<quoted>(?:[^"]|"")*)"
  | '(?P<string>(?:[^']|'')*)'
  | (?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
  | (?P<placeholder>\$\w+|\?)
  | (?P<op><=>|->>|\#>>|!~\*|<>|<=|>=|!=|==|\|\||::|:=|->|\#>|@>|<@|<<|>>|~\*|!~|&&|\|/
    |[-+*/%=<>(),.;:\[\]{}&|^\#~!@\\`])
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
_PREFIXES: Final = {"x": "hex", "n": "national", "e": "escape"}


def tokenize(text: str) -> list[Token]:
    """All tokens of ``text``, an ``end`` token last. Raises SqlSyntaxError for an unterminated string or comment."""
    tokens: list[Token] = []
    match = _PATTERN.match
    at = 0
    end = len(text)
    while at < end:
        found = match(text, at)
        if found is None:
            raise _unknown(text, at)
        kind = found.lastgroup or ""
        start, at = at, found.end()
        if kind == "space":
            continue
        if kind == "block":
            at = _skip_comment(text, start)
        elif kind == "prefixed":
            lexeme = found.group()
            tokens.append(Token(_PREFIXES[lexeme[0].lower()], lexeme[2:-1].replace("''", "'"), start))
        elif kind == "string":
            tokens.append(Token("string", found.group("string").replace("''", "'"), start))
        elif kind == "quoted":
            tokens.append(Token("quoted", found.group("quoted").replace('""', '"'), start))
        elif kind == "hex":
            tokens.append(Token("hex", found.group()[2:], start))
        elif kind == "number":
            tokens.append(Token("number", found.group(), start))
            if text.startswith("L", at):
                at += 1
        elif kind == "tag":
            tokens.append(Token("dollar", found.group(), start))
        else:
            tokens.append(Token(kind, found.group(), start))
    tokens.append(Token("end", "EOF", end))
    return tokens


def position(text: str, at: int) -> str:
    """The way error texts name a place: `` at Line: 1, Column 8``, counted from 1."""
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f" at Line: {line}, Column {column}"


def _skip_comment(text: str, at: int) -> int:
    depth = 0
    while True:
        mark = _COMMENT_MARK.search(text, at)
        if mark is None:
            raise SqlSyntaxError("sql parser error: Unexpected EOF while in a multi-line comment")
        at = mark.end()
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return at


def _unknown(text: str, at: int) -> SqlSyntaxError:
    character = text[at]
    where = position(text, at)
    if character == "'" or text[at + 1 : at + 2] == "'":
        return SqlSyntaxError(f"sql parser error: Unterminated string literal{where}")
    if character == '"':
        return SqlSyntaxError(f"sql parser error: Expected close delimiter '\"' before EOF.{where}")
    return SqlSyntaxError(f"sql parser error: Expected an SQL token, found: {character}{where}")
