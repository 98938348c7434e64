"""What Alembic runs: every version up to the newest, on the connection that it is handed."""

from alembic import context

from kdrift_serve.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], render_as_batch=True, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
