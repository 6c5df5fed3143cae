"""The queue: a table of jobs."""

import sqlite3


def connect():
    return sqlite3.connect("/var/lib/web/jobs.db", timeout=10, isolation_level=None)
