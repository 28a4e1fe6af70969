"""Medians and ratios as one Markdown table."""

from statistics import median

YARDSTICKS = {"bare": "x bare Pingora", "envoy": "x Envoy"}


def table(header, rows):
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = [_line(header, widths), "|" + "|".join(_rule(i, width) for i, width in enumerate(widths)) + "|"]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def ratios(samples, yardsticks=YARDSTICKS):
    """For each yardstick that was measured: name -> median of the ratios within a round, which a slow
    machine disturbs less than the ratio of two medians."""
    return {
        title: {
            name: median(a / b for a, b in zip(values, samples[base])) for name, values in samples.items()
        }
        for base, title in yardsticks.items()
        if base in samples
    }


def times(microseconds):
    return f"{microseconds / 1000:.2f}"


def megabytes(count):
    return f"{count / 1e6:.1f}"


def _line(row, widths):
    cells = [str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
    return "| " + " | ".join(cells) + " |"


def _rule(column, width):
    return "-" * (width + 2) if column == 0 else "-" * (width + 1) + ":"
