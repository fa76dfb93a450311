"""The command line: ``python -m vae COMMAND``, one file a command.

Progress goes to standard error and results to standard output. Exit codes: 0 done, 1 some images
refused under ``--strict`` or flagged under ``--fail-below``, 2 usage, 3 diverged, 66 data or
checkpoint missing, 73 cannot write, 74 disk or I/O.
"""
