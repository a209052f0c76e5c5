"""Static files of the console, and the API for its users' sign-in."""
