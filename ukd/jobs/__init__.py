"""Commands as Slurm jobs: the same command, queued by submitit, requeued when it is stopped, resumed when it starts."""
