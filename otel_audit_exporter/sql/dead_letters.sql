CREATE TABLE IF NOT EXISTS dead_letter (
    record_id TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    error TEXT NOT NULL,
    code TEXT,
    attempts INTEGER NOT NULL,
    first_failed_at REAL NOT NULL,
    parked_at REAL NOT NULL,
    parked_by TEXT NOT NULL
);
