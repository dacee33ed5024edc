"""Tables for a terminal."""


def aligned(header, lines, left=(0,)) -> list[str]:
    """Header and lines with two spaces between columns; the columns numbered in `left` flush left, the others flush right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [header, *lines]
    ]
