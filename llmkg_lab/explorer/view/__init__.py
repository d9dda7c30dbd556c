"""How the explorer looks: charts and style sheet."""
