CREATE TABLE IF NOT EXISTS dead_letter (
    record_id TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    error TEXT NOT NULL,
    code TEXT,
    attempts INTEGER NOT NULL,
    first_failed_at REAL NOT NULL,
    parked_at REAL NOT NULL,
    parked_by TEXT NOT NULL,
    -- Of an event that is wrong by itself: what is wrong with each field, as a JSON object.
    reasons TEXT
);
-- Which process had parked a letter that another one retried with success, until that one has counted it.
CREATE TABLE IF NOT EXISTS retried (
    parked_by TEXT NOT NULL,
    retried_at REAL NOT NULL
);
