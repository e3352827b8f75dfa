"""The scripts run where the writers are installed: pytest imports none of them."""

collect_ignore_glob = ["mak*.py"]
