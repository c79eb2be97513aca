"""A real study whose processes are killed at random: `python -m tests.chaos --kills 50 --seed 1`.

Two studies of the same configurations train on this machine, with real ranks under mpirun, in deterministic mode. One
is left alone. Of the other one, at random moments, the driver, a supervisor, a launcher or a rank gets SIGKILL; a
driver that is gone is started again by the same command. Both must end with the same trials, values and weights.
"""
