"""What knowledge keeps in the database: a repository for each noun, and what several of them do in one transaction."""
