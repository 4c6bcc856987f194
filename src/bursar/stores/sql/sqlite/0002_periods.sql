-- Periods that roll, turns across gateways, and the base that old entries are folded into.

ALTER TABLE accounts ADD COLUMN starts_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN ends_at INTEGER NOT NULL DEFAULT 9223372036854775807 CHECK (ends_at > starts_at);
-- 1 while an authorize looks at the row: the slot of now, or an earlier slot that is still in its rolling window.
ALTER TABLE accounts ADD COLUMN counts INTEGER NOT NULL DEFAULT 1 CHECK (counts IN (0, 1));

CREATE INDEX accounts_that_count ON accounts (scope) WHERE counts = 1;

CREATE TABLE claims (
    account TEXT NOT NULL,
    call_id TEXT NOT NULL,
    worker TEXT NOT NULL,
    since INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (account, call_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX claims_by_call ON claims (call_id);

-- What the settings last said about the limits of a scope: they are set anew when that changes, and not at every start.
CREATE TABLE declarations (
    scope TEXT NOT NULL PRIMARY KEY,
    declared TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the entries up to meta.base_seq came to, and which holds of that time are still in the books.
CREATE TABLE base_accounts (
    account TEXT NOT NULL PRIMARY KEY,
    cap INTEGER,
    ceiling INTEGER,
    state TEXT NOT NULL,
    held INTEGER NOT NULL,
    captured INTEGER NOT NULL,
    overrun INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    counts INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX base_accounts_past ON base_accounts (account) WHERE counts = 0;

CREATE TABLE base_holds (
    call_id TEXT NOT NULL PRIMARY KEY,
    facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE base_quarantine (
    model TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- What the holds that were folded away were booked at, by the UTC day on which they were opened.
CREATE TABLE folded_days (
    day INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    calls INTEGER NOT NULL,
    usd INTEGER NOT NULL,
    presumed_usd INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (day, upstream, model)
) STRICT, WITHOUT ROWID;

-- What people want to hear of, written with what happened, so that none is lost; told once per kind and `told`.
CREATE TABLE outbox (
    id INTEGER NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    told TEXT NOT NULL,
    at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    UNIQUE (kind, told)
) STRICT;

CREATE INDEX outbox_waiting ON outbox (next_at) WHERE delivered_at IS NULL;

-- A table of entries that knows `roll`; a CHECK cannot be changed in place.
DROP TRIGGER entries_never_change;
DROP TRIGGER entries_never_vanish;
DROP TRIGGER holds_never_vanish;
ALTER TABLE entries RENAME TO entries_before;

CREATE TABLE entries (
    seq INTEGER NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind IN (
            'open', 'authorize', 'capture', 'void', 'expire', 'adjust', 'limit', 'state', 'roll', 'quarantine', 'clear',
            'note'
        )
    ),
    call_id TEXT NOT NULL,
    worker TEXT NOT NULL,
    usd INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    accounts TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

INSERT INTO entries (seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail)
SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail FROM entries_before ORDER BY seq;

DROP TABLE entries_before;

CREATE INDEX entries_of_quarantine ON entries (seq) WHERE kind = 'quarantine';

CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries
BEGIN
    SELECT RAISE(ABORT, 'an entry is never changed');
END;

CREATE TRIGGER entries_never_vanish BEFORE DELETE ON entries
WHEN old.seq > (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM meta WHERE name = 'base_seq')
    OR old.seq = (SELECT max(seq) FROM entries)
BEGIN
    SELECT RAISE(ABORT, 'an entry is never deleted before it is folded into the base, and the last one never is');
END;

CREATE TRIGGER holds_never_vanish BEFORE DELETE ON holds
WHEN old.state = 'open' OR old.settled_at >= (
    SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM meta WHERE name = 'base_at'
)
BEGIN
    SELECT RAISE(ABORT, 'a hold is never deleted before its entries are folded into the base');
END;
