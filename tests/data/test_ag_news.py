"""AG News reads as text, whether its two columns are put together here or were on the hub."""

import pytest

from adaptbench.data.ag_news import article, clean


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("the world #39;s leading", "the world's leading"),
        ("the product  quot;from the ground up quot;.", 'the product "from the ground up".'),
        (" #36;10 million prize, a contest for\\privately funded", "$10 million prize, a contest for privately funded"),
        ("Dell Inc. &lt;DELL.O&gt;, the  largest", "Dell Inc. , the largest"),
        ('Inc. &lt;A HREF="http://a.b"&gt;ODSY.O&lt;/A&gt; on Monday', "Inc. ODSY.O on Monday"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
    ],
)
def test_marks_of_web_pages_become_characters_or_go(given, read):
    assert clean(given) == read


def test_title_and_description_are_one_text():
    own = article({"Class Index": "3", "Title": "A title", "Description": "What it\\says"})
    assert own == {"Class Index": "3", "text": "A title What it says"}
    assert article({"text": "A title What it\\says", "label": 2}) == {"text": "A title What it says", "label": 2}
