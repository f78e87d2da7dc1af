"""The generated world of the bundled benchmark: coloured shapes on cluttered backgrounds. numpy only."""
