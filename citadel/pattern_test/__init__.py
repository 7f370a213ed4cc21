"""The pattern test: real requests against a running Citadel, and a report of what came back.

rows        what is tested: one line of the report each
client      HTTP, by requests
answers     what a right answer is
run         the rows' requests
circuit     the drills of breakers, failover and recovery
report      text and JSON
"""
