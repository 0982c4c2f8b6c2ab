"""What a browser or another program is told: the page of runs and its JSON, and models behind an API."""
