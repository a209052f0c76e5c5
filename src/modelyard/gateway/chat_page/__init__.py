"""The page on which an app's visitors chat."""
