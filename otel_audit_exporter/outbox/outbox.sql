CREATE TABLE IF NOT EXISTS event (
    seq INTEGER PRIMARY KEY,
    accepted_at REAL NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS refusal (
    seq INTEGER PRIMARY KEY,
    code TEXT,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed_at REAL NOT NULL,
    next_try_at REAL NOT NULL
);
