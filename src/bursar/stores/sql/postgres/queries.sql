-- Named queries. Many rows come as one array per column.

-- name: begin
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;

-- name: begin_reading
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: books
SELECT now, backend, a_id, a_scope, a_unit, a_period, a_cap, a_ceiling, a_held, a_captured, a_overrun, a_state,
       a_starts_at, a_ends_at, h_call_id, h_worker, h_state, h_accounts, h_held_usd, h_held_calls, h_held_tokens,
       h_captured_usd, h_captured_calls, h_captured_tokens, h_overrun_usd, h_overrun_calls, h_overrun_tokens,
       h_output_tokens, h_model, h_upstream, h_opened_at, h_settled_at, h_basis, h_why, dead, fenced, quarantined,
       owners, openings, claims
FROM bursar.load_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: books_accounts_past
SELECT a.id, a.scope, a.unit, a.period, a.cap, a.ceiling, a.held, a.captured, a.overrun, a.state, a.starts_at,
       a.ends_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (scope, unit, period)
JOIN bursar.accounts AS a USING (scope, unit, period)
ORDER BY a.id FOR NO KEY UPDATE OF a;

-- name: books_folded
SELECT call_id FROM bursar.folded_calls WHERE call_id = ANY ($1::text[]);

-- name: write_scopes
INSERT INTO bursar.scopes (scope, owner, label, opened_at, path)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]);

-- name: write_new_accounts
INSERT INTO bursar.accounts (scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at)
SELECT n.scope, n.unit, n.period, n.cap, n.ceiling, n.held, n.captured, n.overrun, n.state, n.starts_at, n.ends_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::text[], $10::bigint[], $11::bigint[]
) WITH ORDINALITY AS n (scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at, place)
ORDER BY n.place;

-- name: write_account_terms
UPDATE bursar.accounts AS a
SET cap = n.cap, ceiling = n.ceiling, state = n.state, held = n.held, captured = n.captured, overrun = n.overrun
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS n (id, cap, ceiling, state, held, captured, overrun)
WHERE a.id = n.id;

-- name: write_past_accounts
UPDATE bursar.accounts SET counts = false WHERE id = ANY ($1::bigint[]);

-- name: write_stale_claims
DELETE FROM bursar.claims WHERE at < $1;

-- name: write_claims
INSERT INTO bursar.claims (account, call_id, worker, since, at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT (account, call_id) DO UPDATE SET at = excluded.at;

-- name: write_unclaimed
DELETE FROM bursar.claims WHERE call_id = ANY ($1::text[]);

-- name: write_happenings
INSERT INTO bursar.outbox (kind, told, at, subject, detail)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
ON CONFLICT (kind, told) DO NOTHING;

-- name: write_cleared
DELETE FROM bursar.quarantine WHERE model = ANY ($1::text[]);

-- name: write_quarantined
INSERT INTO bursar.quarantine (model, since) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT (model) DO NOTHING;

-- name: write_fenced
INSERT INTO bursar.workers (worker, started_at, fenced_at) SELECT worker, $2, $2 FROM unnest($1::text[]) AS worker
ON CONFLICT (worker) DO UPDATE SET fenced_at = excluded.fenced_at;

-- The hot path: all that authorizing and settling writes, in one statement. The counts of what was changed come back,
-- and the row of the last number is locked after everything else (`numbered` looks at the other parts first).
-- name: write_batch
WITH moved AS (
    UPDATE bursar.accounts AS a SET held = n.held, captured = n.captured, overrun = n.overrun
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS n (id, held, captured, overrun)
    WHERE a.id = n.id
    RETURNING 1
), opened AS (
    INSERT INTO bursar.holds (
        call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
        captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
        settled_at, basis, why
    )
    SELECT n.call_id, n.worker, n.state, n.accounts, n.held_usd, n.held_calls, n.held_tokens, n.captured_usd,
           n.captured_calls, n.captured_tokens, n.overrun_usd, n.overrun_calls, n.overrun_tokens, n.output_tokens,
           n.model, n.upstream, n.opened_at, n.settled_at, n.basis, n.why
    FROM unnest(
        $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::text[],
        $20::text[], $21::bigint[], $22::bigint[], $23::text[], $24::text[]
    ) WITH ORDINALITY AS n (
        call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
        captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
        settled_at, basis, why, place
    )
    ORDER BY n.place
    RETURNING 1
), ended AS (
    UPDATE bursar.holds AS h
    SET state = n.state, accounts = n.accounts, captured_usd = n.captured_usd, captured_calls = n.captured_calls,
        captured_tokens = n.captured_tokens, overrun_usd = n.overrun_usd, overrun_calls = n.overrun_calls,
        overrun_tokens = n.overrun_tokens, settled_at = n.settled_at, basis = n.basis, why = n.why
    FROM unnest(
        $25::text[], $26::text[], $27::text[], $28::bigint[], $29::bigint[], $30::bigint[], $31::bigint[],
        $32::bigint[], $33::bigint[], $34::bigint[], $35::text[], $36::text[]
    ) AS n (
        call_id, state, accounts, captured_usd, captured_calls, captured_tokens, overrun_usd, overrun_calls,
        overrun_tokens, settled_at, basis, why
    )
    WHERE h.call_id = n.call_id
    RETURNING 1
), refused AS (
    UPDATE bursar.scopes AS s SET calls_refused = s.calls_refused + n.count
    FROM unnest($37::text[], $38::bigint[]) AS n (scope, count)
    WHERE s.scope = n.scope
    RETURNING 1
), changed AS (
    SELECT (SELECT count(*) FROM moved) AS moved, (SELECT count(*) FROM opened) AS opened,
           (SELECT count(*) FROM ended) AS ended
    FROM (SELECT count(*) FROM refused) AS last_of_all
), numbered AS (
    UPDATE bursar.last_entry AS e SET seq = e.seq + cardinality($39::bigint[])
    FROM changed WHERE changed.moved >= 0
    RETURNING e.seq AS last, e.seq - cardinality($39::bigint[]) AS before, moved, opened, ended
), written AS (
    INSERT INTO bursar.entries (seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail)
    SELECT numbered.before + n.place, n.at, n.kind, n.call_id, n.worker, n.usd, n.calls, n.tokens, n.accounts, n.detail
    FROM numbered, unnest(
        $39::bigint[], $40::text[], $41::text[], $42::text[], $43::bigint[], $44::bigint[], $45::bigint[],
        $46::text[], $47::text[]
    ) WITH ORDINALITY AS n (at, kind, call_id, worker, usd, calls, tokens, accounts, detail, place)
)
SELECT last, moved, opened, ended FROM numbered;

-- name: write_key
INSERT INTO bursar.keys (digest, name, run, limits_json, created_at, revoked_at, terms_json, expires_at)
VALUES ($1, $2, $3, $4, $5, NULL, $6, $7)
ON CONFLICT (digest) DO UPDATE SET name = excluded.name, run = excluded.run, limits_json = excluded.limits_json,
    terms_json = excluded.terms_json, expires_at = excluded.expires_at
RETURNING digest;

-- name: read_declared
SELECT declared FROM bursar.declarations WHERE scope = $1;

-- name: write_declared
INSERT INTO bursar.declarations (scope, declared, at) VALUES ($1, $2, $3)
ON CONFLICT (scope) DO UPDATE SET declared = excluded.declared, at = excluded.at;

-- name: revoke_secret
UPDATE bursar.keys SET revoked_at = $1 WHERE digest = $2 AND revoked_at IS NULL RETURNING digest;

-- name: revoke_keys
UPDATE bursar.keys SET revoked_at = $1 WHERE name = $2 AND revoked_at IS NULL RETURNING digest;

-- name: write_answer_claimed
INSERT INTO bursar.answers (name, request, status, body, at) VALUES ($1, $2, 0, '', $3)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: read_answer
SELECT request, status, body FROM bursar.answers WHERE name = $1;

-- name: write_answer
UPDATE bursar.answers SET status = $2, body = $3 WHERE name = $1 AND status = 0;

-- name: write_answer_gone
DELETE FROM bursar.answers WHERE name = $1 AND status = 0;

-- name: write_old_answers_gone
DELETE FROM bursar.answers WHERE at < $1 OR (status = 0 AND at < $2);

-- name: clock
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- ---- who lives -------------------------------------------------------------------------------------------------------

-- name: settle_in
SELECT set_config('application_name', 'bursar ' || $1, false),
       set_config('idle_in_transaction_session_timeout', $2, false),
       set_config('lock_timeout', $3, false),
       set_config('statement_timeout', $4, false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('enable_seqscan', $5, false),
       set_config('plan_cache_mode', $6, false),
       set_config('jit', 'off', false),
       set_config('timezone', 'UTC', false);

-- name: identity
SELECT pg_backend_pid() AS backend,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_read_only,
       (SELECT value FROM bursar.meta WHERE name = 'ledger') AS ledger,
       (SELECT coalesce(max(value::bigint), 0) FROM bursar.meta WHERE name = 'epoch') AS epoch,
       (SELECT seq FROM bursar.last_entry) AS seq,
       (SELECT coalesce(max(at), 0) FROM bursar.entries AS e, bursar.last_entry AS l WHERE e.seq = l.seq) AS at,
       (SELECT coalesce(max(beside), 0) FROM bursar.migrations) AS beside;

-- name: durability
SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standby_names;

-- name: backend
SELECT pg_backend_pid();

-- name: take_life
SELECT pg_try_advisory_lock($1);

-- name: end_life
SELECT pg_advisory_unlock($1);

-- name: holds_life
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = $2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND ((classid::bigint << 32) | objid::bigint) = $1
) AND pg_backend_pid() = $2;

-- name: cut_former_self
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = 'bursar ' || $2;

-- name: write_worker
INSERT INTO bursar.workers (worker, started_at) VALUES ($1, $2) ON CONFLICT (worker) DO NOTHING;

-- name: write_left
UPDATE bursar.workers SET left_at = $2 WHERE worker = $1;

-- name: read_suspects
SELECT DISTINCT h.worker, w.left_at IS NOT NULL FROM bursar.holds AS h
LEFT JOIN bursar.workers AS w ON w.worker = h.worker
WHERE h.state = 'open';

-- name: read_lives
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- ---- reading ---------------------------------------------------------------------------------------------------------

-- name: read_accounts
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM bursar.accounts WHERE counts ORDER BY scope, id;

-- name: read_all_accounts
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM bursar.accounts ORDER BY scope, id;

-- name: read_accounts_of
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM bursar.accounts WHERE scope = ANY ($1::text[]) AND counts ORDER BY scope, id;

-- name: read_runs
SELECT scope, owner, label, opened_at, calls_refused FROM bursar.scopes WHERE scope LIKE 'run:%' AND scope NOT LIKE 'run:@%'
ORDER BY opened_at DESC, scope LIMIT $1;

-- name: read_runs_after
SELECT r.scope, r.owner, r.label, r.opened_at, r.calls_refused
FROM bursar.scopes AS last JOIN bursar.scopes AS r ON (r.opened_at, last.scope) < (last.opened_at, r.scope)
WHERE last.scope = $2 AND r.scope LIKE 'run:%' AND r.scope NOT LIKE 'run:@%'
ORDER BY r.opened_at DESC, r.scope LIMIT $1;

-- name: read_run
SELECT scope, owner, label, opened_at, calls_refused FROM bursar.scopes WHERE scope = $1;

-- name: read_hold
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE call_id = $1;

-- name: read_holds
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds ORDER BY id DESC LIMIT $1;

-- name: read_holds_before
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE id < (SELECT id FROM bursar.holds WHERE call_id = $2) AND ($3 = '' OR state = $3)
ORDER BY id DESC LIMIT $1;

-- name: read_open_holds
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE state = 'open' ORDER BY id DESC LIMIT $1;

-- name: read_holds_in_state
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE state = $2 ORDER BY id DESC LIMIT $1;

-- name: read_holds_after
SELECT id, call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE id > $1 ORDER BY id LIMIT $2;

-- name: read_spent_by_day
WITH spent (day, upstream, model, calls, usd, presumed_usd, tokens) AS (
    SELECT opened_at / 86400000000, upstream, model, 1::bigint, captured_usd + overrun_usd,
           CASE WHEN basis = 'presumed' THEN captured_usd + overrun_usd ELSE 0 END,
           captured_tokens + overrun_tokens
    FROM bursar.holds
    WHERE state IN ('captured', 'expired')
      AND opened_at >= $1::bigint * 86400000000 AND opened_at < ($2::bigint + 1) * 86400000000
    UNION ALL
    SELECT day, upstream, model, calls, usd, presumed_usd, tokens FROM bursar.folded_days WHERE day BETWEEN $1 AND $2
)
SELECT day, upstream, model, sum(calls)::bigint, sum(usd)::bigint, sum(presumed_usd)::bigint, sum(tokens)::bigint
FROM spent GROUP BY day, upstream, model ORDER BY day, upstream COLLATE "C", model COLLATE "C";

-- name: read_quarantined
SELECT q.model, q.since, coalesce(h.call_id, ''), coalesce(h.held_usd, 0), coalesce(h.held_calls, 0),
       coalesce(h.held_tokens, 0), coalesce(h.captured_usd + h.overrun_usd, 0),
       coalesce(h.captured_calls + h.overrun_calls, 0), coalesce(h.captured_tokens + h.overrun_tokens, 0)
FROM bursar.quarantine AS q
LEFT JOIN LATERAL (
    SELECT e.call_id FROM bursar.entries AS e
    WHERE e.kind = 'quarantine' AND e.detail::json ->> 'model' = q.model
    ORDER BY e.seq DESC LIMIT 1
) AS last ON true
LEFT JOIN bursar.holds AS h ON h.call_id = last.call_id
ORDER BY q.model;

-- name: read_quarantine
SELECT model FROM bursar.quarantine;

-- name: read_entries
SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail
FROM bursar.entries WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: read_found_keys
SELECT name, digest, run, limits_json, created_at, revoked_at, terms_json, expires_at FROM bursar.keys
WHERE digest = ANY ($1::text[]);

-- name: read_patterns
SELECT scope FROM bursar.scopes WHERE scope >= 'model:' AND scope < 'model;' AND right(scope, 1) = '*' ORDER BY scope;

-- name: read_keys
SELECT name, digest, run, limits_json, created_at, revoked_at, terms_json, expires_at FROM bursar.keys
ORDER BY name, created_at, digest;

-- ---- what is folded away ---------------------------------------------------------------------------------------------

-- name: compacting_lock
SELECT pg_advisory_xact_lock(hashtext('bursar.compacting'));

-- name: read_compacting
SELECT value::json ->> 0, (value::json ->> 1)::bigint FROM bursar.meta WHERE name = 'compacting';

-- name: read_number
SELECT bursar.base($1);

-- name: read_entries_before
SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail
FROM bursar.entries WHERE seq > $1 AND seq < (SELECT seq FROM bursar.last_entry) ORDER BY seq LIMIT $2;

-- name: read_count_of_holds
SELECT count(*) FROM bursar.holds;

-- name: read_holds_of
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE call_id = ANY ($1::text[]);

-- name: read_holds_to_end
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM bursar.holds WHERE call_id = ANY ($1::text[]) ORDER BY call_id FOR UPDATE;

-- name: read_base_accounts
SELECT account, cap, ceiling, state, held, captured, overrun, ends_at, counts FROM bursar.base_accounts;

-- name: read_base_accounts_of
SELECT DISTINCT b.account, b.cap, b.ceiling, b.state, b.held, b.captured, b.overrun, b.ends_at, b.counts
FROM unnest($1::text[]) AS s (scope)
JOIN bursar.base_accounts AS b
  ON b.account > s.scope || '/' COLLATE "C" AND b.account < s.scope || '0' COLLATE "C";

-- name: read_base_accounts_past
SELECT account, cap, ceiling, state, held, captured, overrun, ends_at, counts
FROM bursar.base_accounts
WHERE NOT counts AND account > $1 AND ends_at < $2 AND held = 0 ORDER BY account LIMIT $3;

-- name: read_accounts_named
SELECT a.id, a.scope, a.unit, a.period, a.cap, a.ceiling, a.held, a.captured, a.overrun, a.state, a.starts_at,
       a.ends_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (scope, unit, period)
JOIN bursar.accounts AS a USING (scope, unit, period) ORDER BY a.id;

-- name: read_base_holds
SELECT call_id, facts FROM bursar.base_holds;

-- name: read_base_holds_of
SELECT call_id, facts FROM bursar.base_holds WHERE call_id = ANY ($1::text[]);

-- name: read_base_quarantine
SELECT model FROM bursar.base_quarantine;

-- name: write_meta_over
INSERT INTO bursar.meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: write_meta_gone
DELETE FROM bursar.meta WHERE name = $1;

-- name: write_base_accounts
INSERT INTO bursar.base_accounts (account, cap, ceiling, state, held, captured, overrun, ends_at, counts)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[], $9::boolean[])
ON CONFLICT (account) DO UPDATE SET cap = excluded.cap, ceiling = excluded.ceiling, state = excluded.state,
    held = excluded.held, captured = excluded.captured, overrun = excluded.overrun, ends_at = excluded.ends_at,
    counts = excluded.counts;

-- name: write_base_holds
INSERT INTO bursar.base_holds (call_id, facts) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (call_id) DO UPDATE SET facts = excluded.facts;

-- name: write_base_holds_gone
DELETE FROM bursar.base_holds WHERE call_id = ANY ($1::text[]);

-- name: write_base_quarantine
INSERT INTO bursar.base_quarantine (model) SELECT * FROM unnest($1::text[]) ON CONFLICT (model) DO NOTHING;

-- name: write_base_quarantine_gone
DELETE FROM bursar.base_quarantine WHERE NOT model = ANY ($1::text[]);

-- name: write_folded_days
INSERT INTO bursar.folded_days AS f (day, upstream, model, calls, usd, presumed_usd, tokens)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
ON CONFLICT (day, upstream, model) DO UPDATE SET calls = f.calls + excluded.calls, usd = f.usd + excluded.usd,
    presumed_usd = f.presumed_usd + excluded.presumed_usd, tokens = f.tokens + excluded.tokens;

-- name: write_folded_calls
INSERT INTO bursar.folded_calls (call_id) SELECT * FROM unnest($1::text[]) ON CONFLICT (call_id) DO NOTHING;

-- name: write_holds_gone
DELETE FROM bursar.holds WHERE call_id = ANY ($1::text[]);

-- name: write_entries_gone
DELETE FROM bursar.entries WHERE seq <= $1;

-- name: write_accounts_gone
DELETE FROM bursar.accounts AS a
USING unnest($1::text[], $2::text[], $3::text[]) AS gone (scope, unit, period)
WHERE (a.scope, a.unit, a.period) = (gone.scope, gone.unit, gone.period) AND NOT a.counts;

-- name: write_base_accounts_gone
DELETE FROM bursar.base_accounts WHERE account = ANY ($1::text[]);

-- ---- the schema ------------------------------------------------------------------------------------------------------

-- By a look into the catalogue: a name that was not found is remembered by the session, also under the lock.
-- name: migrations_there
SELECT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'bursar' AND c.relname = 'migrations'
);

-- name: migrations_lock
SELECT pg_advisory_xact_lock($1);

-- name: migrations_table
DO $$
BEGIN
    -- The schema may have been made by an administrator, for a role that may not make one itself.
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'bursar') THEN
        CREATE SCHEMA bursar;
    END IF;
    CREATE TABLE IF NOT EXISTS bursar.migrations (
        number integer NOT NULL PRIMARY KEY,
        name text NOT NULL,
        digest text NOT NULL,
        beside integer NOT NULL,
        applied_at bigint NOT NULL
    );
END
$$;

-- name: migrations_applied
SELECT number, digest FROM bursar.migrations ORDER BY number;

-- name: migrations_note
INSERT INTO bursar.migrations (number, name, digest, beside, applied_at) VALUES ($1, $2, $3, $4, $5);

-- Least privilege: a gateway whose role is in the group bursar_gateway adds entries and cannot change or delete them,
-- and makes or alters no table. Only the owner of the schema comes past the first condition.
-- name: grants
DO $$
BEGIN
    IF NOT coalesce(pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = 'bursar'), 'MEMBER'), false) THEN
        RETURN;
    END IF;
    -- Two who grant at once would fail; the lock is the one of the migrations.
    PERFORM pg_advisory_xact_lock(7236119402113881453);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bursar_gateway') THEN
        IF NOT (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            RETURN;
        END IF;
        BEGIN
            CREATE ROLE bursar_gateway NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'bursar' AND c.relkind = 'r' AND NOT has_table_privilege('bursar_gateway', c.oid, 'SELECT')
    ) THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA bursar TO bursar_gateway;
    GRANT SELECT ON ALL TABLES IN SCHEMA bursar TO bursar_gateway;
    GRANT INSERT ON bursar.entries, bursar.holds, bursar.accounts, bursar.scopes, bursar.workers, bursar.keys,
        bursar.claims, bursar.quarantine, bursar.declarations, bursar.answers TO bursar_gateway;
    GRANT UPDATE (status, body), DELETE ON bursar.answers TO bursar_gateway;
    GRANT UPDATE (declared, at) ON bursar.declarations TO bursar_gateway;
    GRANT UPDATE (cap, ceiling, held, captured, overrun, state, counts) ON bursar.accounts TO bursar_gateway;
    GRANT UPDATE (state, accounts, captured_usd, captured_calls, captured_tokens, overrun_usd, overrun_calls,
        overrun_tokens, settled_at, basis, why) ON bursar.holds TO bursar_gateway;
    GRANT UPDATE (calls_refused, used_at) ON bursar.scopes TO bursar_gateway;
    GRANT UPDATE (fenced_at, left_at) ON bursar.workers TO bursar_gateway;
    GRANT UPDATE (name, run, limits_json, revoked_at, terms_json, expires_at) ON bursar.keys TO bursar_gateway;
    GRANT UPDATE (seq) ON bursar.last_entry TO bursar_gateway;
    GRANT UPDATE (at), DELETE ON bursar.claims TO bursar_gateway;
    GRANT DELETE ON bursar.quarantine TO bursar_gateway;
    GRANT INSERT, DELETE ON bursar.outbox TO bursar_gateway;
    GRANT INSERT, UPDATE (state, attempts, next_at, said) ON bursar.deliveries TO bursar_gateway;
END
$$;

-- name: write_ledger_id
INSERT INTO bursar.meta (name, value) VALUES ('ledger', $1) ON CONFLICT (name) DO NOTHING;

-- name: adopt
INSERT INTO bursar.meta (name, value) VALUES ('epoch', $1), ($2, $3)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;
