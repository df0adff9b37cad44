#!/bin/sh
# Two databases, each of its own user: who can write to MLflow's cannot write to the log. Run once, on a new volume.
set -eu
psql --set ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv mlflow MLFLOW_PASSWORD
\getenv polarscore POLARSCORE_PASSWORD
CREATE USER mlflow PASSWORD :'mlflow';
CREATE USER polarscore PASSWORD :'polarscore';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE polarscore OWNER polarscore;
REVOKE ALL ON DATABASE mlflow, polarscore FROM PUBLIC;
SQL
