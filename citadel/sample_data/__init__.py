"""Made-up records in any number, to see and to measure the console with."""
