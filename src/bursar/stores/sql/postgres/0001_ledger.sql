-- beside: 1
-- (The line above: the oldest schema whose gateways may go on running beside this one.)
--
-- The ledger. Amounts: nanodollars, calls, tokens. Instants: microseconds since 1970.
-- The constraints say again what ledger/rules.py decides; they are the last line, never the first.
-- Names are compared by their bytes: a database that moves to another C library keeps its indexes.

CREATE TABLE bursar.meta (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- The number of the last entry, in a row of its own: whoever writes entries locks it last and keeps it until the
-- commit, so that the entries are numbered without a gap and in the order in which they were committed.
CREATE TABLE bursar.last_entry (
    one boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    seq bigint NOT NULL CHECK (seq >= 0)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

INSERT INTO bursar.last_entry (seq) VALUES (0);

CREATE TABLE bursar.scopes (
    scope text COLLATE "C" NOT NULL PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    label text NOT NULL,
    opened_at bigint NOT NULL,
    calls_refused bigint NOT NULL DEFAULT 0 CHECK (calls_refused >= 0)
) WITH (fillfactor = 80);

CREATE INDEX scopes_by_owner ON bursar.scopes (owner, opened_at);
CREATE INDEX scopes_by_age ON bursar.scopes (opened_at);

CREATE TABLE bursar.accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope text COLLATE "C" NOT NULL REFERENCES bursar.scopes (scope),
    unit text COLLATE "C" NOT NULL CHECK (unit IN ('usd', 'calls', 'tokens')),
    period text COLLATE "C" NOT NULL,
    cap bigint CHECK (cap >= 0),
    ceiling bigint CHECK (ceiling >= cap),
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    captured bigint NOT NULL DEFAULT 0 CHECK (captured >= 0),
    overrun bigint NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    state text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'stopped', 'overrun')),
    starts_at bigint NOT NULL DEFAULT 0,
    ends_at bigint NOT NULL DEFAULT 9223372036854775807,
    -- True while an authorize looks at the row: the slot of now, or an earlier slot that is still in its window.
    counts boolean NOT NULL DEFAULT true,
    UNIQUE (scope, unit, period),
    CHECK (ends_at > starts_at),
    CHECK ((cap IS NULL) = (ceiling IS NULL)),
    -- Without the sum: two amounts of 63 bits would overflow instead of being refused.
    CHECK (ceiling IS NULL OR captured <= ceiling AND held <= ceiling - captured)
) WITH (
    -- A hot account changes thousands of times a second: room on its page, and a vacuum that comes often.
    fillfactor = 50,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX accounts_that_count ON bursar.accounts (scope) WHERE counts;

CREATE TABLE bursar.holds (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_id text COLLATE "C" NOT NULL UNIQUE,
    worker text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('open', 'captured', 'expired', 'void')),
    accounts text NOT NULL,
    held_usd bigint NOT NULL CHECK (held_usd >= 0),
    held_calls bigint NOT NULL CHECK (held_calls >= 0),
    held_tokens bigint NOT NULL CHECK (held_tokens >= 0),
    captured_usd bigint NOT NULL CHECK (captured_usd BETWEEN 0 AND held_usd),
    captured_calls bigint NOT NULL CHECK (captured_calls BETWEEN 0 AND held_calls),
    captured_tokens bigint NOT NULL CHECK (captured_tokens BETWEEN 0 AND held_tokens),
    overrun_usd bigint NOT NULL CHECK (overrun_usd >= 0),
    overrun_calls bigint NOT NULL CHECK (overrun_calls >= 0),
    overrun_tokens bigint NOT NULL CHECK (overrun_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    model text NOT NULL,
    upstream text NOT NULL,
    opened_at bigint NOT NULL,
    settled_at bigint,
    basis text COLLATE "C" NOT NULL CHECK (basis IN ('', 'metered', 'presumed', 'adjusted')),
    why text NOT NULL,
    CHECK ((state = 'open') = (settled_at IS NULL)),
    CHECK (state <> 'open' OR (captured_usd = 0 AND captured_calls = 0 AND captured_tokens = 0))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX holds_open ON bursar.holds (worker) WHERE state = 'open';
CREATE INDEX holds_by_age ON bursar.holds USING brin (opened_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE bursar.entries (
    seq bigint NOT NULL PRIMARY KEY,
    at bigint NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (
        kind IN (
            'open', 'authorize', 'capture', 'void', 'expire', 'adjust', 'limit', 'state', 'roll', 'quarantine', 'clear',
            'note'
        )
    ),
    call_id text COLLATE "C" NOT NULL,
    worker text COLLATE "C" NOT NULL,
    usd bigint NOT NULL,
    calls bigint NOT NULL,
    tokens bigint NOT NULL,
    accounts text NOT NULL,
    detail text NOT NULL
);

CREATE INDEX entries_of_quarantine ON bursar.entries (seq) WHERE kind = 'quarantine';

CREATE TABLE bursar.quarantine (
    model text COLLATE "C" NOT NULL PRIMARY KEY,
    since bigint NOT NULL
);

CREATE TABLE bursar.claims (
    account text COLLATE "C" NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    worker text COLLATE "C" NOT NULL,
    since bigint NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (account, call_id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE INDEX claims_by_call ON bursar.claims (call_id);

-- What people want to hear of, written with what happened, so that none is lost; told once per kind and `told`.
CREATE TABLE bursar.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    told text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    subject text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    next_at bigint NOT NULL DEFAULT 0,
    delivered_at bigint,
    UNIQUE (kind, told)
);

CREATE INDEX outbox_waiting ON bursar.outbox (next_at) WHERE delivered_at IS NULL;

CREATE TABLE bursar.workers (
    worker text COLLATE "C" NOT NULL PRIMARY KEY,
    started_at bigint NOT NULL,
    fenced_at bigint,
    left_at bigint
);

CREATE TABLE bursar.keys (
    digest text COLLATE "C" NOT NULL PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    run text NOT NULL,
    limits_json text NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint
);

CREATE INDEX keys_by_name ON bursar.keys (name);

-- What the settings last said about the limits of a scope: they are set anew when that changes, and not at every start.
CREATE TABLE bursar.declarations (
    scope text COLLATE "C" NOT NULL PRIMARY KEY,
    declared text NOT NULL,
    at bigint NOT NULL
);

-- What the entries up to meta.base_seq came to, and which holds of that time are still in the books.
CREATE TABLE bursar.base_accounts (
    account text COLLATE "C" NOT NULL PRIMARY KEY,
    cap bigint,
    ceiling bigint,
    state text NOT NULL,
    held bigint NOT NULL,
    captured bigint NOT NULL,
    overrun bigint NOT NULL,
    ends_at bigint NOT NULL,
    counts boolean NOT NULL
);

CREATE INDEX base_accounts_past ON bursar.base_accounts (account) WHERE NOT counts;

CREATE TABLE bursar.base_holds (
    call_id text COLLATE "C" NOT NULL PRIMARY KEY,
    facts text NOT NULL
);

CREATE TABLE bursar.base_quarantine (
    model text COLLATE "C" NOT NULL PRIMARY KEY
);

-- What the holds that were folded away were booked at, by the UTC day on which they were opened.
CREATE TABLE bursar.folded_days (
    day bigint NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    calls bigint NOT NULL,
    usd bigint NOT NULL,
    presumed_usd bigint NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (day, upstream, model)
);

-- ---- what is never done, whoever asks --------------------------------------------------------------------------------

CREATE FUNCTION bursar.base(wanted text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(value::bigint), 0) FROM bursar.meta WHERE name = wanted
$$;

CREATE FUNCTION bursar.holds_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF new.state = 'open' THEN
            RAISE EXCEPTION 'a hold that has ended is never opened again' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN new;
    END IF;
    IF old.state = 'open' OR old.settled_at >= bursar.base('base_at') THEN
        RAISE EXCEPTION 'a hold is never deleted before its entries are folded into the base'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN old;
END
$$;

CREATE TRIGGER holds_never_reopen BEFORE UPDATE ON bursar.holds
FOR EACH ROW WHEN (new.state = 'open') EXECUTE FUNCTION bursar.holds_keep();

CREATE TRIGGER holds_never_vanish BEFORE DELETE ON bursar.holds
FOR EACH ROW EXECUTE FUNCTION bursar.holds_keep();

CREATE FUNCTION bursar.entries_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'an entry is never changed' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF old.seq > bursar.base('base_seq') THEN
        RAISE EXCEPTION 'an entry is never deleted before it is folded into the base'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN old;
END
$$;

CREATE TRIGGER entries_never_change BEFORE UPDATE ON bursar.entries
FOR EACH ROW EXECUTE FUNCTION bursar.entries_keep();

CREATE TRIGGER entries_never_vanish BEFORE DELETE ON bursar.entries
FOR EACH ROW EXECUTE FUNCTION bursar.entries_keep();

CREATE FUNCTION bursar.never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is never emptied', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER accounts_never_emptied BEFORE TRUNCATE ON bursar.accounts EXECUTE FUNCTION bursar.never();
CREATE TRIGGER holds_never_emptied BEFORE TRUNCATE ON bursar.holds EXECUTE FUNCTION bursar.never();
CREATE TRIGGER entries_never_emptied BEFORE TRUNCATE ON bursar.entries EXECUTE FUNCTION bursar.never();

CREATE FUNCTION bursar.forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR new.seq < old.seq THEN
        RAISE EXCEPTION 'entries are numbered forward only' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END
$$;

CREATE TRIGGER last_entry_goes_forward BEFORE UPDATE OR DELETE ON bursar.last_entry
FOR EACH ROW EXECUTE FUNCTION bursar.forward();

-- ---- the rows of a batch ---------------------------------------------------------------------------------------------

-- Locks the scopes of a batch and gives every row that the rules may read, in one round trip. Each statement below sees
-- what was committed before it began, so all of them see the rows as they are under the locks.
--
-- The scopes are locked in the order of their names: two batches never wait for each other in a circle. The lock of a
-- scope stands for all its accounts, those that another gateway adds meanwhile included (a period that rolls); the
-- accounts themselves are locked too, so that nobody who does not know of this order can change them unseen.
CREATE FUNCTION bursar.load_1(
    wanted_scopes text[],
    wanted_calls text[],
    bare_calls text[],       -- those of them whose operation does not say where they were held
    wanted_workers text[],
    suspects text[],         -- workers that may be dead, with the keys of their liveness locks
    suspect_keys bigint[],
    openers text[],          -- owners whose runs of the last hour count, with the most that have to be known
    openings_max integer[],
    with_owners boolean,
    with_claims boolean,
    given_now bigint,        -- a clock that a test moves
    OUT now bigint,
    OUT backend integer,
    -- The accounts that count, and the holds: one array for each column.
    OUT a_id bigint[],
    OUT a_scope text[],
    OUT a_unit text[],
    OUT a_period text[],
    OUT a_cap bigint[],
    OUT a_ceiling bigint[],
    OUT a_held bigint[],
    OUT a_captured bigint[],
    OUT a_overrun bigint[],
    OUT a_state text[],
    OUT a_starts_at bigint[],
    OUT a_ends_at bigint[],
    OUT h_call_id text[],
    OUT h_worker text[],
    OUT h_state text[],
    OUT h_accounts text[],
    OUT h_held_usd bigint[],
    OUT h_held_calls bigint[],
    OUT h_held_tokens bigint[],
    OUT h_captured_usd bigint[],
    OUT h_captured_calls bigint[],
    OUT h_captured_tokens bigint[],
    OUT h_overrun_usd bigint[],
    OUT h_overrun_calls bigint[],
    OUT h_overrun_tokens bigint[],
    OUT h_output_tokens bigint[],
    OUT h_model text[],
    OUT h_upstream text[],
    OUT h_opened_at bigint[],
    OUT h_settled_at bigint[],
    OUT h_basis text[],
    OUT h_why text[],
    OUT dead text[],
    OUT fenced text[],
    OUT quarantined text[],
    OUT owners json,
    OUT openings json,
    OUT claims json
) LANGUAGE plpgsql AS $$
DECLARE
    wanted text[] := wanted_scopes || openers;
    locked text[];
    calls text[] := wanted_calls;
BEGIN
    backend := pg_backend_pid();
    IF cardinality(suspects) > 0 THEN
        -- Whoever gets the lock of a worker has the proof that it is dead, and keeps it from coming back until the end.
        SELECT array_agg(s.worker) INTO dead
        FROM unnest(suspects, suspect_keys) AS s (worker, key) WHERE pg_try_advisory_xact_lock(s.key);
    END IF;
    IF cardinality(bare_calls) > 0 OR dead IS NOT NULL THEN
        wanted := wanted || ARRAY(
            SELECT DISTINCT regexp_replace(name, '/[^/]*/[^/]*$', '')
            FROM (
                SELECT h.accounts FROM bursar.holds AS h WHERE h.call_id = ANY (bare_calls)
                UNION ALL
                SELECT h.accounts FROM bursar.holds AS h WHERE h.state = 'open' AND h.worker = ANY (dead)
            ) AS found, json_array_elements_text(found.accounts::json) AS name
        );
    END IF;
    -- Only what was there to be locked is looked at below: a scope that another gateway makes in this very moment would
    -- be seen by some of the statements and not by others. It is then opened a second time here, fails, and is retried.
    SELECT array_agg(s.scope) INTO locked FROM (
        SELECT s.scope FROM bursar.scopes AS s WHERE s.scope = ANY (wanted) ORDER BY s.scope FOR NO KEY UPDATE
    ) AS s;
    now := coalesce(given_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    SELECT
        array_agg(a.id), array_agg(a.scope), array_agg(a.unit), array_agg(a.period), array_agg(a.cap),
        array_agg(a.ceiling), array_agg(a.held), array_agg(a.captured), array_agg(a.overrun), array_agg(a.state),
        array_agg(a.starts_at), array_agg(a.ends_at)
    INTO
        a_id, a_scope, a_unit, a_period, a_cap, a_ceiling, a_held, a_captured, a_overrun, a_state, a_starts_at,
        a_ends_at
    FROM (
        SELECT * FROM bursar.accounts AS a WHERE a.scope = ANY (locked) AND a.counts ORDER BY a.id FOR NO KEY UPDATE
    ) AS a;
    IF dead IS NOT NULL THEN
        calls := calls || ARRAY(SELECT h.call_id FROM bursar.holds AS h WHERE h.state = 'open' AND h.worker = ANY (dead));
    END IF;
    SELECT
        array_agg(h.call_id), array_agg(h.worker), array_agg(h.state), array_agg(h.accounts), array_agg(h.held_usd),
        array_agg(h.held_calls), array_agg(h.held_tokens), array_agg(h.captured_usd), array_agg(h.captured_calls),
        array_agg(h.captured_tokens), array_agg(h.overrun_usd), array_agg(h.overrun_calls),
        array_agg(h.overrun_tokens), array_agg(h.output_tokens), array_agg(h.model), array_agg(h.upstream),
        array_agg(h.opened_at), array_agg(h.settled_at), array_agg(h.basis), array_agg(h.why)
    INTO
        h_call_id, h_worker, h_state, h_accounts, h_held_usd, h_held_calls, h_held_tokens, h_captured_usd,
        h_captured_calls, h_captured_tokens, h_overrun_usd, h_overrun_calls, h_overrun_tokens, h_output_tokens,
        h_model, h_upstream, h_opened_at, h_settled_at, h_basis, h_why
    FROM bursar.holds AS h WHERE h.call_id = ANY (calls);
    SELECT array_agg(q.model) INTO quarantined FROM bursar.quarantine AS q;
    SELECT array_agg(w.worker) INTO fenced
    FROM bursar.workers AS w WHERE w.worker = ANY (wanted_workers) AND w.fenced_at IS NOT NULL;
    IF with_owners THEN
        SELECT json_agg(json_build_array(s.scope, s.owner)) INTO owners
        FROM bursar.scopes AS s WHERE s.scope = ANY (locked);
    END IF;
    IF cardinality(openers) > 0 THEN
        SELECT json_agg(json_build_array(o.owner, s.opened_at) ORDER BY s.opened_at) INTO openings
        FROM unnest(openers, openings_max) AS o (owner, most), LATERAL (
            SELECT s.opened_at FROM bursar.scopes AS s
            WHERE s.owner = o.owner AND s.opened_at > now - 3600000000 AND s.scope LIKE 'run:%'
            ORDER BY s.opened_at DESC LIMIT o.most
        ) AS s;
    END IF;
    IF with_claims THEN
        SELECT json_agg(json_build_array(c.account, c.call_id, c.worker, c.since, c.at)) INTO claims
        FROM bursar.claims AS c;
    END IF;
END
$$;
