"""One config and one straight-line main per verb. Configs load no torch; recipes are imported when they run."""
