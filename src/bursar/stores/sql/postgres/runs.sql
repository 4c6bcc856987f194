-- name: read_path
SELECT path FROM bursar.scopes WHERE scope = $1;

-- name: write_used
UPDATE bursar.scopes SET used_at = $1 WHERE scope = $2;

-- name: read_idle_runs
SELECT a.scope, s.owner, (($1::bigint - greatest(s.opened_at, s.used_at)) / 1000000)::bigint
FROM bursar.accounts AS a JOIN bursar.scopes AS s ON s.scope = a.scope
WHERE a.state = 'open' AND a.unit = 'calls' AND a.period = 'lifetime' AND a.scope >= 'run:' AND a.scope < 'run;'
  AND a.scope > $3 AND a.held = 0 AND greatest(s.opened_at, s.used_at) <= $2
ORDER BY a.scope LIMIT $4;
