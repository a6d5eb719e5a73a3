"""Which batch next, how large, until when, and what to refuse: pure, with the clock passed in."""
