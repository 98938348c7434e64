"""The version of the service's tables, and how they are brought to it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

SCHEMA = "0004"
"""The version of the tables that this code reads and writes: the newest file of `_migrations/versions`."""
VERSION_TABLE = "serve_version"
"""Where the database says which version its tables have: others may have tables of theirs in it."""


def upgrade(connection: sa.Connection) -> None:
    """Bring the tables to `SCHEMA`. Raises ValueError where they are of a newer kdrift."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "_migrations"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if found is not None and found not in known:
        raise ValueError(f"the table of jobs is of a newer kdrift (its version is {found}): upgrade this one")
    if found != SCHEMA:
        command.upgrade(config, SCHEMA)
