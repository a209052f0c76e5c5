"""Public pages of forms, to which mails lead."""
