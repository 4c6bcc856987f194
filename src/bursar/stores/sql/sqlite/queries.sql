-- Named queries. Where a query takes many rows, /*rows*/ follows the shape of one, which is repeated.

-- name: books_holds
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds WHERE call_id IN (SELECT value FROM json_each(?1));

-- name: books_folded
SELECT call_id FROM folded_calls WHERE call_id IN (SELECT value FROM json_each(?1));

-- name: books_orphans
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds WHERE state = 'open' AND worker IN (SELECT value FROM json_each(?1));

-- name: books_accounts
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM accounts WHERE counts = 1 AND scope IN (SELECT value FROM json_each(?1)) ORDER BY scope, id;

-- name: books_accounts_past
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM accounts WHERE (scope, unit, period) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?1)
);

-- name: books_claims
SELECT account, call_id, worker, since, at FROM claims;

-- name: books_scopes
SELECT scope, owner FROM scopes WHERE scope IN (SELECT value FROM json_each(?1));

-- name: books_openings
SELECT opened_at FROM scopes WHERE owner = ?1 AND opened_at > ?2 AND scope GLOB 'run:*'
ORDER BY opened_at DESC LIMIT ?3;

-- name: books_quarantine
SELECT model FROM quarantine;

-- name: books_fenced
SELECT worker FROM workers WHERE fenced_at IS NOT NULL AND worker IN (SELECT value FROM json_each(?1));

-- name: write_scopes
INSERT INTO scopes (scope, owner, label, opened_at, path) VALUES (?, ?, ?, ?, ?) /*rows*/;

-- name: write_new_accounts
INSERT INTO accounts (scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) /*rows*/;

-- name: write_accounts
WITH new (id, held, captured, overrun) AS (VALUES (?, ?, ?, ?) /*rows*/)
UPDATE accounts SET held = new.held, captured = new.captured, overrun = new.overrun
FROM new WHERE accounts.id = new.id;

-- name: write_account_terms
UPDATE accounts SET cap = ?1, ceiling = ?2, state = ?3 WHERE id = ?4;

-- name: write_past_accounts
UPDATE accounts SET counts = 0 WHERE id = ?1;

-- name: write_claims
INSERT INTO claims (account, call_id, worker, since, at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (account, call_id) DO UPDATE SET at = excluded.at;

-- name: write_unclaimed
DELETE FROM claims WHERE call_id = ?1;

-- name: write_stale_claims
DELETE FROM claims WHERE at < ?1;

-- name: write_new_holds
INSERT INTO holds (call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
                   captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream,
                   opened_at, settled_at, basis, why)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) /*rows*/;

-- name: write_holds
WITH new (call_id, state, accounts, captured_usd, captured_calls, captured_tokens,
          overrun_usd, overrun_calls, overrun_tokens, settled_at, basis, why)
AS (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) /*rows*/)
UPDATE holds SET state = new.state, accounts = new.accounts, captured_usd = new.captured_usd,
                 captured_calls = new.captured_calls, captured_tokens = new.captured_tokens,
                 overrun_usd = new.overrun_usd, overrun_calls = new.overrun_calls,
                 overrun_tokens = new.overrun_tokens, settled_at = new.settled_at, basis = new.basis, why = new.why
FROM new WHERE holds.call_id = new.call_id;

-- name: write_entries
INSERT INTO entries (at, kind, call_id, worker, usd, calls, tokens, accounts, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) /*rows*/;

-- name: write_happenings
INSERT INTO outbox (kind, told, at, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (kind, told) DO NOTHING;

-- name: write_cleared
DELETE FROM quarantine WHERE model = ?1;

-- name: write_quarantined
INSERT INTO quarantine (model, since) VALUES (?1, ?2) ON CONFLICT (model) DO NOTHING;

-- name: write_fenced
INSERT INTO workers (worker, started_at, fenced_at) VALUES (?1, ?2, ?2)
ON CONFLICT (worker) DO UPDATE SET fenced_at = excluded.fenced_at;

-- name: write_refused
UPDATE scopes SET calls_refused = calls_refused + ?1 WHERE scope = ?2;

-- name: write_worker
INSERT INTO workers (worker, started_at, fenced_at) VALUES (?1, ?2, NULL);

-- name: write_key
INSERT INTO keys (digest, name, run, limits_json, created_at, revoked_at, terms_json, expires_at)
VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, ?7)
ON CONFLICT (digest) DO UPDATE SET name = excluded.name, run = excluded.run, limits_json = excluded.limits_json,
    terms_json = excluded.terms_json, expires_at = excluded.expires_at;

-- name: read_declared
SELECT declared FROM declarations WHERE scope = ?1;

-- name: write_declared
INSERT INTO declarations (scope, declared, at) VALUES (?1, ?2, ?3)
ON CONFLICT (scope) DO UPDATE SET declared = excluded.declared, at = excluded.at;

-- name: revoke_secret
UPDATE keys SET revoked_at = ?1 WHERE digest = ?2 AND revoked_at IS NULL;

-- name: revoke_keys
UPDATE keys SET revoked_at = ?1 WHERE name = ?2 AND revoked_at IS NULL;

-- name: write_answer_claimed
INSERT INTO answers (name, request, status, body, at) VALUES (?1, ?2, 0, '', ?3) ON CONFLICT (name) DO NOTHING;

-- name: read_answer
SELECT request, status, body FROM answers WHERE name = ?1;

-- name: write_answer
UPDATE answers SET status = ?2, body = ?3 WHERE name = ?1 AND status = 0;

-- name: write_answer_gone
DELETE FROM answers WHERE name = ?1 AND status = 0;

-- name: write_old_answers_gone
DELETE FROM answers WHERE at < ?1 OR (status = 0 AND at < ?2);

-- name: write_meta
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING;

-- name: read_meta
SELECT value FROM meta WHERE name = ?1;

-- name: read_identity
SELECT (SELECT value FROM meta WHERE name = 'ledger'),
       coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'epoch'), 0),
       coalesce((SELECT max(seq) FROM entries), 0),
       coalesce((SELECT at FROM entries WHERE seq = (SELECT max(seq) FROM entries)), 0);

-- name: read_accounts
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM accounts WHERE counts = 1 ORDER BY scope, id;

-- name: read_all_accounts
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM accounts ORDER BY scope, id;

-- name: read_accounts_of
SELECT id, scope, unit, period, cap, ceiling, held, captured, overrun, state, starts_at, ends_at
FROM accounts WHERE scope = ?1 AND counts = 1 ORDER BY id;

-- name: read_runs
SELECT scope, owner, label, opened_at, calls_refused FROM scopes WHERE scope GLOB 'run:[^@]*'
ORDER BY opened_at DESC, scope LIMIT ?1;

-- name: read_runs_after
SELECT r.scope, r.owner, r.label, r.opened_at, r.calls_refused
FROM scopes AS last JOIN scopes AS r ON (r.opened_at, last.scope) < (last.opened_at, r.scope)
WHERE last.scope = ?2 AND r.scope GLOB 'run:[^@]*'
ORDER BY r.opened_at DESC, r.scope LIMIT ?1;

-- name: read_run
SELECT scope, owner, label, opened_at, calls_refused FROM scopes WHERE scope = ?1;

-- name: read_hold
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds WHERE call_id = ?1;

-- name: read_holds
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds ORDER BY id DESC LIMIT ?1;

-- name: read_holds_before
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds WHERE id < (SELECT id FROM holds WHERE call_id = ?2) AND (?3 = '' OR state = ?3) ORDER BY id DESC LIMIT ?1;

-- name: read_open_holds
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds INDEXED BY holds_open WHERE state = 'open' ORDER BY id DESC LIMIT ?1;

-- name: read_holds_in_state
SELECT call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, captured_calls,
       captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, opened_at,
       settled_at, basis, why
FROM holds WHERE state = ?2 ORDER BY id DESC LIMIT ?1;

-- name: read_spent_by_day
WITH spent (day, upstream, model, calls, usd, presumed_usd, tokens) AS (
    SELECT opened_at / 86400000000, upstream, model, 1, captured_usd + overrun_usd,
           CASE WHEN basis = 'presumed' THEN captured_usd + overrun_usd ELSE 0 END,
           captured_tokens + overrun_tokens
    FROM holds
    WHERE state IN ('captured', 'expired') AND opened_at >= ?1 * 86400000000 AND opened_at < (?2 + 1) * 86400000000
    UNION ALL
    SELECT day, upstream, model, calls, usd, presumed_usd, tokens FROM folded_days WHERE day BETWEEN ?1 AND ?2
)
SELECT day, upstream, model, sum(calls), sum(usd), sum(presumed_usd), sum(tokens)
FROM spent GROUP BY day, upstream, model ORDER BY day, upstream, model;

-- name: read_quarantined
SELECT q.model, q.since, coalesce(h.call_id, ''), coalesce(h.held_usd, 0), coalesce(h.held_calls, 0),
       coalesce(h.held_tokens, 0), coalesce(h.captured_usd + h.overrun_usd, 0),
       coalesce(h.captured_calls + h.overrun_calls, 0), coalesce(h.captured_tokens + h.overrun_tokens, 0)
FROM quarantine AS q
LEFT JOIN entries AS e ON e.seq = (
    SELECT max(seq) FROM entries WHERE kind = 'quarantine' AND json_extract(detail, '$.model') = q.model
)
LEFT JOIN holds AS h ON h.call_id = e.call_id
ORDER BY q.model;

-- name: read_entries
SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail
FROM entries WHERE seq > ?1 ORDER BY seq LIMIT ?2;

-- name: read_entries_before
SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail
FROM entries WHERE seq > ?1 AND seq < (SELECT max(seq) FROM entries) ORDER BY seq LIMIT ?2;

-- name: read_count_of_holds
SELECT count(*) FROM holds;

-- name: read_base_accounts
SELECT account, cap, ceiling, state, held, captured, overrun, ends_at, counts FROM base_accounts;

-- name: read_base_accounts_of
SELECT b.account, b.cap, b.ceiling, b.state, b.held, b.captured, b.overrun, b.ends_at, b.counts
FROM json_each(?1) AS s JOIN base_accounts AS b ON b.account > s.value || '/' AND b.account < s.value || '0';

-- name: read_base_accounts_past
SELECT account, cap, ceiling, state, held, captured, overrun, ends_at, counts
FROM base_accounts WHERE counts = 0 AND account > ?1 AND ends_at < ?2 AND held = 0 ORDER BY account LIMIT ?3;

-- name: read_compacting
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM meta WHERE name = 'compacting';

-- name: write_meta_gone
DELETE FROM meta WHERE name = ?1;

-- name: read_base_holds
SELECT call_id, facts FROM base_holds;

-- name: read_base_holds_of
SELECT call_id, facts FROM base_holds WHERE call_id IN (SELECT value FROM json_each(?1));

-- name: read_base_quarantine
SELECT model FROM base_quarantine;

-- name: write_base_account
INSERT INTO base_accounts (account, cap, ceiling, state, held, captured, overrun, ends_at, counts)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (account) DO UPDATE SET cap = excluded.cap, ceiling = excluded.ceiling, state = excluded.state,
    held = excluded.held, captured = excluded.captured, overrun = excluded.overrun, ends_at = excluded.ends_at,
    counts = excluded.counts;

-- name: write_base_hold
INSERT INTO base_holds (call_id, facts) VALUES (?1, ?2) ON CONFLICT (call_id) DO UPDATE SET facts = excluded.facts;

-- name: write_base_hold_gone
DELETE FROM base_holds WHERE call_id = ?1;

-- name: write_base_quarantine
INSERT INTO base_quarantine (model) VALUES (?1) ON CONFLICT (model) DO NOTHING;

-- name: write_base_quarantine_gone
DELETE FROM base_quarantine WHERE model = ?1;

-- name: write_meta_over
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: write_folded_day
INSERT INTO folded_days (day, upstream, model, calls, usd, presumed_usd, tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (day, upstream, model) DO UPDATE SET calls = calls + excluded.calls, usd = usd + excluded.usd,
    presumed_usd = presumed_usd + excluded.presumed_usd, tokens = tokens + excluded.tokens;

-- name: write_folded_call
INSERT INTO folded_calls (call_id) VALUES (?1) ON CONFLICT (call_id) DO NOTHING;

-- name: write_entries_gone
DELETE FROM entries WHERE seq <= ?1;

-- name: write_hold_gone
DELETE FROM holds WHERE call_id = ?1;

-- name: write_account_gone
DELETE FROM accounts WHERE (scope, unit, period) = (?1, ?2, ?3) AND counts = 0;

-- name: write_base_account_gone
DELETE FROM base_accounts WHERE account = ?1;

-- name: read_workers_with_holds
SELECT DISTINCT worker FROM holds WHERE state = 'open';

-- name: read_key
SELECT name, digest, run, limits_json, created_at, revoked_at, terms_json, expires_at FROM keys WHERE digest = ?1;

-- name: read_patterns
SELECT scope FROM scopes WHERE scope >= 'model:' AND scope < 'model;' AND substr(scope, -1) = '*' ORDER BY scope;

-- name: read_keys
SELECT name, digest, run, limits_json, created_at, revoked_at, terms_json, expires_at FROM keys
ORDER BY name, created_at, digest;

-- name: migrations_table
CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT;

-- name: migrations_there
SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations');

-- name: migrations_applied
SELECT number, digest FROM migrations ORDER BY number;

-- name: migrations_note
INSERT INTO migrations (number, name, digest, applied_at) VALUES (?1, ?2, ?3, ?4);
