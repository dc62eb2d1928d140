"""What happens when a process stops working: one policy, which all who watch another one read.

Several others notice a process that stops. Each can do its part alone, so that none is a single
point of failure. `docs/faults.md` says this policy in words.
"""

MS = 1_000_000

# A silent process. The parameter `hang_after_ms` is its patience: how long it may be silent. It
# announces what takes longer.
PATIENCE_FACTOR = 4
"""A detector's patience is at least this many times what its slowest inference takes."""
LONG_NS = 3_000 * MS
"""Patience of a process that loads or compiles. The kernel ends one that computes for so long at
real-time priority without waiting for anything, since it may starve all others."""
SIGN_SHARE = 0.6
"""Share of its patience after which a standby gives a sign of life."""
ABSENT_AFTER_PATIENCES = 10
"""A process that is kept from running and silent for this many times its patience counts as
missing, because whoever relies on it must know. It is not killed."""
KILLED_AFTER_NS = 1_000 * MS
"""The watchdog and its guards kill a process that has been hanging for so long. The hang is
reported at once and a standby takes over at once; but a process that was merely starved recovers
sooner than a new one starts."""

# How often each process looks at others.
LOOK_NS = 20 * MS
"""How often the watchdog looks at the other processes, beside each outcome, until one is silent;
and how often detectors and their standbys look at the watchdog."""
STANDBY_LOOK_NS = 8 * MS
"""How often a standby looks at a process that is silent for too long. It notices an end at once."""
SUPERVISOR_LOOK_S = 0.05
STARVED_NS = 20 * MS
"""A process that wakes later than this after the time asked for was itself kept from running. The
process that it looks at perhaps was too, so its silence until then does not count."""
SUPERVISOR_SILENT_NS = 2_000 * MS
"""The watchdog reports a supervisor that is silent for so long."""
FILES_LOOK_NS = 1_000 * MS
"""How often a node looks whether its files in shared memory still stand."""
AWAY_S = 0.5
"""A supervisor that looks later than this was stopped or starved itself."""
STOPPED_S = 1.0
"""The supervisor kills a process that is stopped (SIGSTOP) for this long. Other processes notice a
hang sooner, but only that of a process that has given a sign of life before."""

# Restarts: however many there are, a process that has worked is restarted.
DEATHS_WITHIN_S = 60.0
AT_ONCE = 5
"""Up to this many deaths of a process within `DEATHS_WITHIN_S`, it is restarted at once."""
DELAY_S = 1.0
"""From then on it is restarted after this time: a process that dies again and again must not take
the processor from the others."""
SAME_CAUSE = 3
"""A process that has never worked and dies so often in a row by the same cause ends the graph."""
WORKED_S = 30.0
"""A process that has run for so long has worked."""
STANDBY_AGAIN_S = 10.0
"""A standby that could not start is tried again after this time: each try loads the models."""

# Who works and who speaks.
DISCOVERY_NS = 1_000 * MS
"""A process that has just started waits at most this long for its predecessor's listeners to
discover it. Before that it would publish to nobody."""
TURN_NS = 20 * MS
"""The process that works has other things to do than to speak for the watchdog: it waits this long
for its standby to do it."""
HEARD_WITHIN_NS = 5_000 * MS
"""A watchdog that starts while a substitute speaks lets the substitute go on until all its
listeners have discovered the watchdog, but at most this long."""
SILENT_WITHIN_NS = 100 * MS
"""From the watchdog's first sign of life on, the other has so long to fall silent."""
