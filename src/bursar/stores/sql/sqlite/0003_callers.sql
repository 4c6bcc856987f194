-- Who is spending: what a key may do and until when, which accounts pay for a run beside its own, answers to writes, and
-- calls that were folded away.

-- JSON: the parents of a run, and the tags that it was opened with. Never changed afterwards.
ALTER TABLE scopes ADD COLUMN path TEXT NOT NULL DEFAULT '[]';
-- When a run was last seen to be used, to within some minutes; 0 where it never was.
ALTER TABLE scopes ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;

-- The runs that may still spend, which are few beside all that there were.
CREATE INDEX accounts_of_open_runs ON accounts (scope)
    WHERE state = 'open' AND unit = 'calls' AND period = 'lifetime' AND scope >= 'run:' AND scope < 'run;';

-- JSON: team, user, tags, models, upstreams, networks, role.
ALTER TABLE keys ADD COLUMN terms_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE keys ADD COLUMN expires_at INTEGER;

-- The answer to a write that was sent with an idempotency key, so that the same write again has the same answer.
CREATE TABLE answers (
    name TEXT NOT NULL PRIMARY KEY,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX answers_by_age ON answers (at);

-- Calls that were booked and whose holds were folded away: none of them is booked once more.
CREATE TABLE folded_calls (
    call_id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Who has been told what: a row for each happening and webhook, from the first attempt on.
DROP INDEX outbox_waiting;
ALTER TABLE outbox DROP COLUMN attempts;
ALTER TABLE outbox DROP COLUMN next_at;
ALTER TABLE outbox DROP COLUMN delivered_at;
CREATE INDEX outbox_by_age ON outbox (at);

CREATE TABLE deliveries (
    happening INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE,
    webhook TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'given up')),
    attempts INTEGER NOT NULL CHECK (attempts > 0),
    -- The end of the lease of whoever tries at the moment; then when it is tried again.
    next_at INTEGER NOT NULL,
    said TEXT NOT NULL,
    PRIMARY KEY (happening, webhook)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_waiting ON deliveries (webhook, next_at) WHERE state = 'waiting';
