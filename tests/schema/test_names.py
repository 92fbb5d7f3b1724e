"""Names: conversion of case, identifiers, database names."""

from __future__ import annotations

import pytest

from spacetimedb.schema.names import (
    camel_case,
    database_name_problem,
    identifier_problem,
    pascal_case,
    snake_case,
)

from .vectors import Case, name_of, schema_cases


@pytest.mark.parametrize(
    ("source", "snake", "camel", "pascal"),
    [
        ("countFresh", "count_fresh", "countFresh", "CountFresh"),
        ("player2", "player_2", "player2", "Player2"),
        ("Player2D", "player_2_d", "player2D", "Player2D"),
        ("table1_col2", "table_1_col_2", "table1Col2", "Table1Col2"),
        ("HTTPRequest", "http_request", "httpRequest", "HttpRequest"),
        ("_private", "private", "private", "Private"),
        ("a__b", "a_b", "aB", "AB"),
        ("id_", "id", "id", "Id"),
        ("SCREAMING_CASE", "screaming_case", "screamingCase", "ScreamingCase"),
        ("xYZ", "x_yz", "xYz", "XYz"),
        ("AB", "ab", "ab", "Ab"),
        ("ABCDef", "abc_def", "abcDef", "AbcDef"),
        ("v2Alpha", "v_2_alpha", "v2Alpha", "V2Alpha"),
        ("a-b c", "a_b_c", "aBC", "ABC"),
        ("", "", "", ""),
        ("_", "", "", ""),
    ],
)
def test_conversion(source: str, snake: str, camel: str, pascal: str) -> None:
    assert (snake_case(source), camel_case(source), pascal_case(source)) == (snake, camel, pascal)


@pytest.mark.parametrize(
    ("source", "snake"),
    [
        ("userID", "user_id"),
        ("parseXMLFile", "parse_xml_file"),
        ("iPhone", "i_phone"),
        ("a1b2c3", "a_1_b_2_c_3"),
        ("SHA256Hash", "sha_256_hash"),
        ("getHTTP2Response", "get_http_2_response"),
        ("x1", "x_1"),
        ("größeX", "größe_x"),
        ("ÄpfelBaum", "äpfel_baum"),
        ("ñandú2", "ñandú_2"),
        ("名前Foo", "名前foo"),
        ("Σίσυφος", "σίσυφος"),
    ],
)
def test_snake_case(source: str, snake: str) -> None:
    assert snake_case(source) == snake


@pytest.mark.parametrize("case", [c for c in schema_cases() if c["name"].startswith("case_")], ids=name_of)
def test_recorded_accessors_convert_to_recorded_names(case: Case) -> None:
    for canonical, accessor in case["st_table_accessor"]:
        assert snake_case(accessor) == canonical
    for _, canonical, accessor in case["st_column_accessor"]:
        assert snake_case(accessor) == canonical


@pytest.mark.parametrize("name", ["a", "_", "_1", "größe", "名前", "class", "A9"])
def test_identifiers(name: str) -> None:
    assert identifier_problem(name) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Empty identifiers"),
        ("1a", "starting character '1'"),
        ("a b", "contains a character ' '"),
        ("a-b!", "contains a character '-'"),
        ("e\u0301", "normalization form C"),
        ("\u0301", "starting character"),
    ],
)
def test_what_is_no_identifier(name: str, text: str) -> None:
    problem = identifier_problem(name)
    assert problem is not None
    assert text in problem


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("quickstart-chat", None),
        ("a", None),
        ("0-9", None),
        ("", "database names cannot be empty"),
        ("c2" * 32, "database names cannot be identities"),
        ("-a", "invalid hyphen in database name"),
        ("a-", "invalid hyphen in database name"),
        ("a--b", "invalid hyphen in database name"),
        ("Chat", "invalid characters in database name"),
        ("a b", "invalid characters in database name"),
        ("größe", "invalid characters in database name"),
    ],
)
def test_database_names(name: str, problem: str | None) -> None:
    assert database_name_problem(name) == problem
