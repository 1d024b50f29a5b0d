"""`make bench`: what a move costs, with swanroam and without, in one run on one machine.

  __main__.py     the launcher: the machine's own costs first, then the rest in the lab's kernel
  inside.py       the run in the lab's kernel: which measures, in what order
  settings.py     how often, how far, how many
  contenders.py   who is measured: each a way to live through a change of address
  topologies.py   the stage: hosts, delays, a contender set up on them, one move
  results.py      what was measured, as data; bench.json is these
  measures/       one module per question: silence (and steps), sockets, throughput, machine
  figures.py      medians, slopes, ratios; pure
  report.py       tables from results; pure

Nothing here asserts a time: a figure means something only beside another one of the same run.
"""
