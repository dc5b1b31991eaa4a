"""Steps after inference. They are what :mod:`shoal.preproc` says of steps."""
