"""From a user's object to counts of named genes."""
