"""What a person reads at the end: tables for the terminal and one self-contained page."""
