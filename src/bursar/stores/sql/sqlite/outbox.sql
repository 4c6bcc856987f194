-- Named queries on what people want to hear of, and on who has been told.

-- name: read_again
SELECT o.id, o.kind, o.told, o.at, o.subject, o.detail
FROM deliveries AS d JOIN outbox AS o ON o.id = d.happening
WHERE d.webhook = ?1 AND d.state = 'waiting' AND d.next_at <= ?2
ORDER BY d.next_at, d.happening LIMIT ?3;

-- name: read_untold
SELECT o.id, o.kind, o.told, o.at, o.subject, o.detail
FROM outbox AS o
WHERE o.at >= ?2 AND (?3 = '[]' OR o.kind IN (SELECT value FROM json_each(?3)))
    AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.happening = o.id AND d.webhook = ?1)
ORDER BY o.at, o.id LIMIT ?4;

-- name: write_leases
-- Whoever takes the row first has it until the lease ends: the condition is looked at under the lock of the row.
INSERT INTO deliveries (happening, webhook, state, attempts, next_at, said)
SELECT id, ?1, 'waiting', 1, ?3, '' FROM outbox WHERE id IN (SELECT value FROM json_each(?4))
ON CONFLICT (happening, webhook) DO UPDATE SET attempts = attempts + 1, next_at = excluded.next_at
WHERE state = 'waiting' AND next_at <= ?2
RETURNING happening, attempts;

-- name: write_delivery
UPDATE deliveries SET state = ?4, next_at = ?5, said = ?6
WHERE happening = ?1 AND webhook = ?2 AND state = 'waiting' AND (attempts = ?3 OR ?4 = 'delivered');

-- name: read_happenings
SELECT id, kind, told, at, subject, detail FROM outbox
WHERE id < ?1 AND at >= ?2 AND (?3 = '[]' OR kind IN (SELECT value FROM json_each(?3)))
ORDER BY id DESC LIMIT ?4;

-- name: read_deliveries
SELECT happening, webhook, state, attempts, next_at, said FROM deliveries
WHERE happening IN (SELECT value FROM json_each(?1)) ORDER BY happening, webhook;

-- name: write_pruned
DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE at < ?1 ORDER BY at LIMIT ?2);
