"""Flask and psycopg 3: `gunicorn benchmarks.rivals.with_flask:app`, a connection for each thread."""

import os

from flask import Flask, Response, jsonify, request
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

INSERT = "INSERT INTO inbox (source, headers, payload) VALUES (%s, %s, %s) RETURNING id"
THREADS = int(os.environ["BENCH_THREADS"])

app = Flask(__name__)
# One statement is its own transaction: without BEGIN and COMMIT around it there is one way to the server, not three.
pool = ConnectionPool(kwargs={"autocommit": True}, min_size=THREADS, max_size=THREADS, open=True)


@app.post("/<source>")
def store(source: str) -> Response:
    values = source, Jsonb(list(request.headers.items())), request.get_data()
    with pool.connection() as connection:
        (event_id,) = connection.execute(INSERT, values, binary=True).fetchone()
    return jsonify(id=str(event_id))
