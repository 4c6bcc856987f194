-- Named queries on what people want to hear of, and on who has been told.

-- name: read_again
SELECT o.id, o.kind, o.told, o.at, o.subject, o.detail
FROM bursar.deliveries AS d JOIN bursar.outbox AS o ON o.id = d.happening
WHERE d.webhook = $1 AND d.state = 'waiting' AND d.next_at <= $2
ORDER BY d.next_at, d.happening LIMIT $3;

-- name: read_untold
SELECT o.id, o.kind, o.told, o.at, o.subject, o.detail
FROM bursar.outbox AS o
WHERE o.at >= $2 AND ($3::text[] = '{}' OR o.kind = ANY ($3::text[]))
    AND NOT EXISTS (SELECT FROM bursar.deliveries AS d WHERE d.happening = o.id AND d.webhook = $1)
ORDER BY o.at, o.id LIMIT $4;

-- name: write_leases
-- Whoever takes the row first has it until the lease ends: the other waits for the row and then finds it taken.
INSERT INTO bursar.deliveries AS d (happening, webhook, state, attempts, next_at, said)
SELECT o.id, $1, 'waiting', 1, $3, '' FROM bursar.outbox AS o WHERE o.id = ANY ($4::bigint[]) ORDER BY o.id
ON CONFLICT (happening, webhook) DO UPDATE SET attempts = d.attempts + 1, next_at = excluded.next_at
WHERE d.state = 'waiting' AND d.next_at <= $2
RETURNING happening, attempts;

-- name: write_delivery
UPDATE bursar.deliveries SET state = $4, next_at = $5, said = $6
WHERE happening = $1 AND webhook = $2 AND state = 'waiting' AND (attempts = $3 OR $4 = 'delivered');

-- name: read_happenings
SELECT id, kind, told, at, subject, detail FROM bursar.outbox
WHERE id < $1 AND at >= $2 AND ($3::text[] = '{}' OR kind = ANY ($3::text[]))
ORDER BY id DESC LIMIT $4;

-- name: read_deliveries
SELECT happening, webhook, state, attempts, next_at, said FROM bursar.deliveries
WHERE happening = ANY ($1::bigint[]) ORDER BY happening, webhook;

-- name: write_pruned
DELETE FROM bursar.outbox WHERE id = ANY (
    ARRAY(SELECT id FROM bursar.outbox WHERE at < $1 ORDER BY at LIMIT $2)
) RETURNING id;
