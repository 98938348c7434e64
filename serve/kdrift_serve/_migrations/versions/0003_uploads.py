"""Uploads that come in several requests, and the parts that are there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make both."""
    op.create_table(
        "serve_uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key", sa.String(80), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.Float(53), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("writer", sa.String(32), nullable=False),
    )
    op.create_index("serve_uploads_by_key", "serve_uploads", ["key", "changed"])
    op.create_table(
        "serve_upload_parts",
        sa.Column("upload", sa.String(32), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
    )
