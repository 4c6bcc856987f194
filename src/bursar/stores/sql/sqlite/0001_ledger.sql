-- The ledger. Amounts: nanodollars, calls, tokens. Instants: microseconds since 1970.
-- The constraints say again what ledger/rules.py decides; they are the last line, never the first.

CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE scopes (
    scope TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    label TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    calls_refused INTEGER NOT NULL DEFAULT 0 CHECK (calls_refused >= 0)
) STRICT;

CREATE INDEX scopes_by_owner ON scopes (owner, opened_at);
CREATE INDEX scopes_by_age ON scopes (opened_at);

CREATE TABLE accounts (
    id INTEGER NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL REFERENCES scopes (scope),
    unit TEXT NOT NULL CHECK (unit IN ('usd', 'calls', 'tokens')),
    period TEXT NOT NULL,
    cap INTEGER CHECK (cap >= 0),
    ceiling INTEGER CHECK (ceiling >= cap),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    captured INTEGER NOT NULL DEFAULT 0 CHECK (captured >= 0),
    overrun INTEGER NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'stopped', 'overrun')),
    UNIQUE (scope, unit, period),
    CHECK ((cap IS NULL) = (ceiling IS NULL)),
    CHECK (ceiling IS NULL OR held + captured <= ceiling)
) STRICT;

CREATE TABLE holds (
    id INTEGER NOT NULL PRIMARY KEY,
    call_id TEXT NOT NULL UNIQUE,
    worker TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'captured', 'expired', 'void')),
    accounts TEXT NOT NULL,
    held_usd INTEGER NOT NULL CHECK (held_usd >= 0),
    held_calls INTEGER NOT NULL CHECK (held_calls >= 0),
    held_tokens INTEGER NOT NULL CHECK (held_tokens >= 0),
    captured_usd INTEGER NOT NULL CHECK (captured_usd BETWEEN 0 AND held_usd),
    captured_calls INTEGER NOT NULL CHECK (captured_calls BETWEEN 0 AND held_calls),
    captured_tokens INTEGER NOT NULL CHECK (captured_tokens BETWEEN 0 AND held_tokens),
    overrun_usd INTEGER NOT NULL CHECK (overrun_usd >= 0),
    overrun_calls INTEGER NOT NULL CHECK (overrun_calls >= 0),
    overrun_tokens INTEGER NOT NULL CHECK (overrun_tokens >= 0),
    output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    settled_at INTEGER,
    basis TEXT NOT NULL CHECK (basis IN ('', 'metered', 'presumed', 'adjusted')),
    why TEXT NOT NULL,
    CHECK ((state = 'open') = (settled_at IS NULL)),
    CHECK (state <> 'open' OR captured_usd + captured_calls + captured_tokens = 0)
) STRICT;

CREATE INDEX holds_open ON holds (worker) WHERE state = 'open';

CREATE TRIGGER holds_never_reopen BEFORE UPDATE ON holds WHEN new.state = 'open'
BEGIN
    SELECT RAISE(ABORT, 'a hold that has ended is never opened again');
END;

CREATE TRIGGER holds_never_vanish BEFORE DELETE ON holds
BEGIN
    SELECT RAISE(ABORT, 'a hold is never deleted');
END;

CREATE TABLE entries (
    seq INTEGER NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind IN ('open', 'authorize', 'capture', 'void', 'expire', 'adjust', 'limit', 'state', 'quarantine', 'clear')
    ),
    call_id TEXT NOT NULL,
    worker TEXT NOT NULL,
    usd INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    accounts TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries
BEGIN
    SELECT RAISE(ABORT, 'an entry is never changed');
END;

CREATE TRIGGER entries_never_vanish BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'an entry is never deleted');
END;

CREATE TABLE quarantine (
    model TEXT NOT NULL PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
    worker TEXT NOT NULL PRIMARY KEY,
    started_at INTEGER NOT NULL,
    fenced_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    digest TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    run TEXT NOT NULL,
    limits_json TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE INDEX keys_by_name ON keys (name);
