"""What providers say they billed, against what the ledger booked: reading their reports, comparing, drawing."""
