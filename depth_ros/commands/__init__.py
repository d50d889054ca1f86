"""One thin file for each console command."""
