"""The SELECTs behind the views that keep account: what became of what was planned, what went dark, what it took.

Texts only, over the sources of `views.py`.
"""

from __future__ import annotations

DARK_DAYS = 7
"""A test that ran nowhere for this long is dark everywhere."""

_STANDING = """SELECT u.run, u.environment, u.suite,
        CASE WHEN u.state <> 'terminal' OR s.terminal IS NULL THEN 'open' ELSE s.terminal END AS state,
        coalesce(s.reason, '') AS reason, count(*) AS units, sum(u.tests) AS tests
    FROM records_units u LEFT JOIN (
        SELECT * FROM records_settlements
        QUALIFY row_number() OVER (PARTITION BY run, unit ORDER BY ordinal DESC) = 1
    ) s ON s.run = u.run AND s.unit = u.unit
    GROUP BY ALL"""

COMPLETENESS = f"""WITH standing AS ({_STANDING}), why AS (
        SELECT run, environment, suite, map_from_entries(list((state || ': ' || reason, n) ORDER BY state, reason)) AS r
        FROM (SELECT run, environment, suite, state, reason, CAST(sum(units) AS BIGINT) AS n FROM standing
              WHERE state IN ('skipped', 'not_run', 'lost') GROUP BY ALL)
        GROUP BY ALL)
    SELECT t.*, coalesce(why.r, MAP {{}}) AS reasons FROM (
        SELECT run, environment, suite,
            CAST(sum(units) AS BIGINT) AS planned,
            CAST(coalesce(sum(units) FILTER (state = 'ran'), 0) AS BIGINT) AS ran,
            CAST(coalesce(sum(units) FILTER (state = 'skipped'), 0) AS BIGINT) AS skipped,
            CAST(coalesce(sum(units) FILTER (state = 'not_run'), 0) AS BIGINT) AS not_run,
            CAST(coalesce(sum(units) FILTER (state = 'lost'), 0) AS BIGINT) AS lost,
            CAST(coalesce(sum(units) FILTER (state = 'open'), 0) AS BIGINT) AS "open",
            CAST(coalesce(sum(units) FILTER (state NOT IN ('ran', 'open') AND reason = ''), 0) AS BIGINT)
                AS unexplained,
            CAST(sum(tests) AS BIGINT) AS tests
        FROM standing GROUP BY run, environment, suite
    ) t LEFT JOIN why USING (run, environment, suite)"""
"""`tests` are the results that the plan expects at least; `unexplained` units did not run and give no reason."""

# When a test ran is told by our own clock, at which its run began: `started` is the machine's, and may be wrong.
DARK_ANYWHERE = f"""SELECT x.test_id, any_value(x.suite) AS suite, any_value(x.test) AS test,
        list(DISTINCT x.environment ORDER BY x.environment) AS environments,
        arg_max(x.run, r.created) FILTER (x.outcome <> 'skipped') AS last_run,
        to_timestamp(max(r.created) FILTER (x.outcome <> 'skipped')) AS last_ran,
        to_timestamp(max(r.created)) AS last_seen
    FROM result_rows x JOIN records_runs r ON r.id = x.run
    WHERE x.counted GROUP BY x.test_id
    HAVING coalesce(max(r.created) FILTER (x.outcome <> 'skipped'), 0) < epoch(now()) - {DARK_DAYS * 86_400}"""

# A hold is what a run has of a machine, from its submission's acceptance (or first lease, in older ledgers) on.
COSTS = """WITH held AS (
        SELECT run, machine, any_value(pool) AS pool, min(created) AS since,
            CASE WHEN bool_and(state = 'released') THEN max(updated) END AS until,
            arg_max(json_extract_string(offer, '$.type'), created) AS type,
            arg_max(json_extract_string(offer, '$.market'), created) AS market,
            arg_max(CAST(json_extract(offer, '$.usd_per_hour') AS DOUBLE), created) AS usd_per_hour
        FROM records_submissions WHERE machine IS NOT NULL GROUP BY run, machine
    ), worked AS (
        SELECT run, machine, min(granted) AS since, max(coalesce(ended, epoch(now()))) AS until, count(*) AS leases,
            sum(coalesce(ended, epoch(now())) - granted) AS slot_seconds
        FROM records_leases GROUP BY run, machine
    )
    SELECT run, coalesce(h.pool, m.pool) AS pool, m.vendor, machine, h.type, h.market,
        to_timestamp(coalesce(h.since, w.since)) AS since,
        to_timestamp(CASE WHEN h.run IS NULL THEN w.until ELSE h.until END) AS until,
        CASE WHEN h.run IS NULL THEN w.until - w.since ELSE coalesce(h.until, epoch(now())) - h.since END
            AS machine_seconds,
        coalesce(w.slot_seconds, 0) AS slot_seconds, coalesce(w.leases, 0) AS leases, h.usd_per_hour,
        (coalesce(h.until, epoch(now())) - h.since) / 3600 * h.usd_per_hour AS usd
    FROM held h FULL JOIN worked w USING (run, machine) LEFT JOIN records_machines m ON m.id = machine"""
