"""What the documentation has that is made of the code: `make docs`. A unit test fails when it is stale.

values.py       a key's kind, default and range in words
reference.py    docs/configuration.md
json_schema.py  docs/schemas/swanroam.schema.json
metrics.py      the table in docs/metrics.md
numbers.py      regular expressions for ranges of numbers, which the schema needs
pages.py        all of these, and tests/schemas, with their files
commands.py     the commands that documents show, for the tests that run them
"""
