"""What is shown in Prefect's UI."""

from tasks.display import unwrapped

WRAPPED = """# A title
Two lines of
one paragraph.

- an item that
  goes on
- another

| a | b |
|---|---|
| 1 | 2 |
After the table.

```
code stays
as it is
```
> quoted
"""
SHOWN = """# A title
Two lines of one paragraph.

- an item that goes on
- another

| a | b |
|---|---|
| 1 | 2 |
After the table.

```
code stays
as it is
```
> quoted
"""


def test_a_paragraph_is_one_line_and_the_rest_stays():
    assert unwrapped(WRAPPED) == SHOWN
    assert unwrapped(SHOWN) == SHOWN
