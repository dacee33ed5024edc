"""Results for a reader: tables for the terminal, one self-contained HTML page, tables in files."""
