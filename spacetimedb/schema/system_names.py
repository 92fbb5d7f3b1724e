"""Names and ids of the system tables."""

from __future__ import annotations

from typing import Final

ST_TABLE_ID: Final = 1
ST_COLUMN_ID: Final = 2
ST_SEQUENCE_ID: Final = 3
ST_INDEX_ID: Final = 4
ST_CONSTRAINT_ID: Final = 5
ST_MODULE_ID: Final = 6
ST_CLIENT_ID: Final = 7
ST_VAR_ID: Final = 8
ST_SCHEDULED_ID: Final = 9
ST_ROW_LEVEL_SECURITY_ID: Final = 10
ST_CONNECTION_CREDENTIALS_ID: Final = 11
ST_VIEW_ID: Final = 12
ST_VIEW_PARAM_ID: Final = 13
ST_VIEW_COLUMN_ID: Final = 14
ST_VIEW_SUB_ID: Final = 15
ST_VIEW_ARG_ID: Final = 16
ST_EVENT_TABLE_ID: Final = 17
ST_TABLE_ACCESSOR_ID: Final = 18
ST_INDEX_ACCESSOR_ID: Final = 19
ST_COLUMN_ACCESSOR_ID: Final = 20

SYSTEM_TABLE_NAMES: Final = frozenset(
    (
        "st_table",
        "st_column",
        "st_sequence",
        "st_index",
        "st_constraint",
        "st_module",
        "st_client",
        "st_var",
        "st_scheduled",
        "st_row_level_security",
        "st_connection_credentials",
        "st_view",
        "st_view_param",
        "st_view_column",
        "st_view_sub",
        "st_view_arg",
        "st_event_table",
        "st_table_accessor",
        "st_index_accessor",
        "st_column_accessor",
    )
)

FIRST_USER_ID: Final = 4096
"""The first table, index, constraint, sequence and so on of a module; all below are the system's."""
