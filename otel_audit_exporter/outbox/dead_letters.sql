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
-- The order in which pages are read.
CREATE INDEX IF NOT EXISTS dead_letter_place ON dead_letter (parked_at, record_id);
-- Which process had parked a letter that another one retried with success, until that one has counted it.
CREATE TABLE IF NOT EXISTS retried (
    parked_by TEXT NOT NULL,
    retried_at REAL NOT NULL
);
-- What an event said before somebody corrected it. It stays when the corrected event is in the table.
CREATE TABLE IF NOT EXISTS original (
    record_id TEXT NOT NULL,
    body BLOB NOT NULL,
    error TEXT NOT NULL,
    reasons TEXT,
    corrected_at REAL NOT NULL
);
PRAGMA user_version = 2;
