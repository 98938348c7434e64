"""What every run needs: configuration, seeds, files, run folder, tracking, cluster, submission, progress."""
