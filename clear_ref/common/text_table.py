"""Tables for a terminal."""

from collections.abc import Collection, Iterable, Sequence


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
