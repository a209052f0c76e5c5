-- One statement for each figure. {day} is the number of the day since 1970 in the caller's time zone, or 0 for the
-- whole time range. Tests in the console are left out, except from tokens and cost, which were paid for.

-- name: day_sqlite
-- SQLite truncates when it casts.
CAST((created_at + :offset) / 86400 AS INTEGER);

-- name: day_postgresql
-- PostgreSQL rounds when it casts.
CAST(FLOOR((created_at + :offset) / 86400) AS INTEGER);

-- name: messages
-- Messages of users.
SELECT {day} AS day, COUNT(*) AS messages FROM messages
WHERE tenant = :tenant AND app = :app AND created_at >= :since AND created_at < :until AND source <> 'console'
GROUP BY 1;

-- name: runs
-- Runs of the app, with or without a message.
SELECT {day} AS day, COUNT(*) AS runs FROM runs
WHERE tenant = :tenant AND app = :app AND created_at >= :since AND created_at < :until AND source <> 'console'
GROUP BY 1;

-- name: end_users
-- Users who sent a message or started a run. Messages outlive the runs that answered them.
SELECT {day} AS day, COUNT(DISTINCT end_user) AS end_users
FROM (SELECT created_at, "user" AS end_user FROM messages
      WHERE tenant = :tenant AND app = :app AND created_at >= :since AND created_at < :until AND source <> 'console'
      UNION ALL
      SELECT created_at, "user" AS end_user FROM runs
      WHERE tenant = :tenant AND app = :app AND created_at >= :since AND created_at < :until AND source <> 'console'
     ) AS active
WHERE end_user <> '' GROUP BY 1;

-- name: conversations
-- Conversations by the day on which they started, and the messages that they have until now.
SELECT {day} AS day, COUNT(*) AS conversations, SUM(messages) AS interactions
FROM (SELECT conversations.created_at AS created_at, COUNT(*) AS messages
      FROM conversations JOIN messages
      ON messages.tenant = conversations.tenant AND messages.conversation = conversations.id
      WHERE conversations.tenant = :tenant AND conversations.app = :app AND conversations.created_at >= :since
      AND conversations.created_at < :until AND messages.source <> 'console'
      GROUP BY conversations.id, conversations.created_at) AS started
GROUP BY 1;

-- name: usage
-- Tokens and cost, by currency, of the calls that the app made with its own key or on behalf of an API key.
SELECT {day} AS day, currency, SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
       COALESCE(SUM(nanos), 0) AS nanos, SUM(CASE WHEN total_price IS NULL THEN 1 ELSE 0 END) AS unpriced
FROM (SELECT created_at, currency, prompt_tokens, completion_tokens, nanos, total_price FROM usage
      WHERE tenant = :tenant AND api_key = :caller AND substr(api_key, 1, 4) = 'app:'
      AND created_at >= :since AND created_at < :until
      UNION ALL
      SELECT created_at, currency, prompt_tokens, completion_tokens, nanos, total_price FROM usage
      WHERE tenant = :tenant AND app = :caller AND app <> '' AND api_key <> :caller
      AND created_at >= :since AND created_at < :until) AS calls
GROUP BY 1, 2;

-- name: speed
-- Generated tokens, and the seconds that chat models took for them.
SELECT {day} AS day, SUM(completion_tokens) AS completion_tokens, SUM(latency) AS seconds
FROM (SELECT created_at, completion_tokens, latency FROM usage
      WHERE tenant = :tenant AND api_key = :caller AND substr(api_key, 1, 4) = 'app:'
      AND created_at >= :since AND created_at < :until
      AND model_type = 'llm' AND status = 'ok' AND completion_tokens > 0
      UNION ALL
      SELECT created_at, completion_tokens, latency FROM usage
      WHERE tenant = :tenant AND app = :caller AND app <> '' AND api_key <> :caller
      AND created_at >= :since AND created_at < :until
      AND model_type = 'llm' AND status = 'ok' AND completion_tokens > 0) AS calls
GROUP BY 1;

-- name: ratings
-- Ratings of messages, by the day of the message.
SELECT {day} AS day, COUNT(*) AS messages, SUM(CASE WHEN rating = 'like' THEN 1 ELSE 0 END) AS likes,
       SUM(CASE WHEN rating = 'dislike' THEN 1 ELSE 0 END) AS dislikes
FROM messages
WHERE tenant = :tenant AND app = :app AND created_at >= :since AND created_at < :until AND source <> 'console'
GROUP BY 1;
