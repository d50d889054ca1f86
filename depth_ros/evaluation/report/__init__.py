"""Pages of results: a toolkit (`page`, `charts`, `templates/`) and what is made with it."""
