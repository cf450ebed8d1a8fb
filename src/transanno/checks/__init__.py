"""Whether what users pass in can be used; every error says what was found, what is allowed and what to do."""
