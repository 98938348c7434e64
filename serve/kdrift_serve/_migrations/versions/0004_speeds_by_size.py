"""Speeds by the size of the images that they were measured with; those of before are measured again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table again; a kdrift of before, which runs beside this one, knows no sizes and writes 0."""
    op.drop_table("serve_speeds")
    op.create_table(
        "serve_speeds",
        sa.Column("prior", sa.String(64), primary_key=True),
        sa.Column("method", sa.String(40), primary_key=True),
        sa.Column("samplers", sa.String(80), primary_key=True),
        sa.Column("pixels", sa.Integer, primary_key=True, server_default="0", autoincrement=False),
        sa.Column("image_s", sa.Float(53), nullable=False),
        sa.Column("slice_s", sa.Float(53), nullable=False),
    )
