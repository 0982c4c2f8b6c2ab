"""What a browser or another program is told: the page of runs and its JSON."""
