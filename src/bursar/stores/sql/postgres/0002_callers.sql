-- beside: 2
-- Who is spending: what a key may do and until when, which accounts pay for a run beside its own, answers to writes, and
-- calls that were folded away.

-- JSON: the parents of a run, and the tags that it was opened with. Never changed afterwards.
ALTER TABLE bursar.scopes ADD COLUMN path text NOT NULL DEFAULT '[]';
-- When a run was last seen to be used, to within some minutes; 0 where it never was.
ALTER TABLE bursar.scopes ADD COLUMN used_at bigint NOT NULL DEFAULT 0;

-- The runs that may still spend, which are few beside all that there were.
CREATE INDEX accounts_of_open_runs ON bursar.accounts (scope)
    WHERE state = 'open' AND unit = 'calls' AND period = 'lifetime' AND scope >= 'run:' AND scope < 'run;';

-- JSON: team, user, tags, models, upstreams, networks, role.
ALTER TABLE bursar.keys ADD COLUMN terms_json text NOT NULL DEFAULT '{}';
ALTER TABLE bursar.keys ADD COLUMN expires_at bigint;

-- The answer to a write that was sent with an idempotency key, so that the same write again has the same answer.
CREATE TABLE bursar.answers (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    request text NOT NULL,
    status integer NOT NULL,
    body text NOT NULL,
    at bigint NOT NULL
);

CREATE INDEX answers_by_age ON bursar.answers (at);

-- Calls that were booked and whose holds were folded away: none of them is booked once more.
CREATE TABLE bursar.folded_calls (
    call_id text COLLATE "C" NOT NULL PRIMARY KEY
);

-- Who has been told what: a row for each happening and webhook, from the first attempt on.
DROP INDEX bursar.outbox_waiting;
ALTER TABLE bursar.outbox DROP COLUMN attempts, DROP COLUMN next_at, DROP COLUMN delivered_at;
CREATE INDEX outbox_by_age ON bursar.outbox (at);

CREATE TABLE bursar.deliveries (
    happening bigint NOT NULL REFERENCES bursar.outbox (id) ON DELETE CASCADE,
    webhook text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'delivered', 'given up')),
    attempts bigint NOT NULL CHECK (attempts > 0),
    -- The end of the lease of whoever tries at the moment; then when it is tried again.
    next_at bigint NOT NULL,
    said text NOT NULL,
    PRIMARY KEY (happening, webhook)
);

CREATE INDEX deliveries_waiting ON bursar.deliveries (webhook, next_at) WHERE state = 'waiting';
