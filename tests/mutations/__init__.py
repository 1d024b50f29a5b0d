"""Which test guards which requirement, and the proof that it does: defences are switched off one at a time.

    registry        what a requirement, a mutation and the whole list are
    requirements    the list itself, one module for each kind of attack
    patches         how a function of swanroam is changed, loudly when it is not there any more
    switch          SWANROAM_MUTATION=NAME: reads it, applies the mutation, hands it on to programs that are started
    plugin          pytest plugin: throws the switch before a test is imported, records how tests ended
    runs            runs tests with and without mutations, in processes forked from one that has imported everything
    results         what runs left, and what of it the table shows
    table           docs/requirements.md

`make mutations` and `make mutations-lab` run, `make requirements` writes the table. swanroam itself knows nothing of
this.
"""
