-- Mails about forms: stored with the form, sent in the background, at least once each.
CREATE TABLE form_mails (
    run       TEXT NOT NULL,
    key       TEXT NOT NULL,                -- of the form's step
    recipient TEXT NOT NULL,                -- an address
    tenant    TEXT NOT NULL,
    token     TEXT NOT NULL,                -- of the form's page for this recipient
    subject   TEXT NOT NULL,
    body      TEXT NOT NULL,                -- text with a placeholder for the link
    state     TEXT NOT NULL,                -- waiting, sent or failed
    attempts  INTEGER NOT NULL DEFAULT 0,
    due_at    REAL NOT NULL,                -- the next attempt
    error     TEXT NOT NULL DEFAULT '',     -- of the last attempt
    PRIMARY KEY (run, key, recipient)
) STRICT;
CREATE UNIQUE INDEX form_mails_by_token ON form_mails (token);
CREATE INDEX form_mails_by_time ON form_mails (state, due_at);
