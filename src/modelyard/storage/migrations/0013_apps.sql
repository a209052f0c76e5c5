-- The app that made a call on behalf of the API key, as app:ID: its limits count what it used with any key. Of rows from
-- before nobody knows it. In usage_sums the same is kept as scope 'app' (of an app) and 'app_user' (of a user of it).
ALTER TABLE usage ADD COLUMN app TEXT NOT NULL DEFAULT '';

-- Whether its owner signed in at the identity provider with the account's password known: an invitation of another tenant
-- than the default one proves nobody's address.
ALTER TABLE accounts ADD COLUMN is_linked INTEGER NOT NULL DEFAULT 0;
