"""The generated sections of docs/performance.md: each stands between two lines that say what writes it. Pure."""


def replace_section(page: str, text: str) -> str:
    """Return *page* with the section whose first and last lines are those of *text* replaced by it.

    Raises ValueError if the page has no such lines.
    """
    lines = text.splitlines()
    before, _, rest = page.partition(lines[0])
    _, end, after = rest.partition(lines[-1])
    if not end:
        raise ValueError("cannot write the figures: the page has no section of theirs")
    return before + text + after
