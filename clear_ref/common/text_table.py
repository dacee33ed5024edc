"""Tables for a terminal, and cells of a CSV file."""

from collections.abc import Collection, Iterable, Sequence


def csv_cell(text: str) -> str:
    """A text for a cell of a CSV file that a spreadsheet takes for text, not for a formula.

    A text that begins with one of = + - @, a tab or a line end gets a ' before it; a number is not
    changed.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text


def aligned(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)
) -> list[str]:
    """The lines of a table: header and rows, two spaces between columns.

    left  numbers of the columns that are aligned to the left; the others are aligned to the right
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = []
        for column, width in enumerate(widths):
            cell = row[column]
            cells.append(cell.ljust(width) if column in left else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines
