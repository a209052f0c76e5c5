"""The console's files, and who is signed in to it."""
