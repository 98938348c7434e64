#!/bin/sh
# The service's own role and database, beside MLflow's. The server runs this when its volume is new; on one that MLflow has used:
# kubectl -n kdrift exec postgres-0 -- sh /docker-entrypoint-initdb.d/service.sh
set -eu
psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=password="$KDRIFT_SERVE_PASSWORD" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'EOF'
CREATE ROLE kdrift LOGIN PASSWORD :'password';
CREATE DATABASE kdrift OWNER kdrift;
REVOKE CONNECT ON DATABASE kdrift FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
EOF
