from __future__ import annotations

from html.parser import HTMLParser

from pairloop.lib import lineage
from pairloop.lib.lineage import Node, place


def tree(*parents: int | None, **fields: object) -> list[Node]:
    """Return versions 0, 1, … made from these."""
    return [
        Node(key=key, parent=parent, label=f"v{key}", url=f"/v/{key}/", caption="", **fields)
        for key, parent in enumerate(parents)
    ]


def lanes(*parents: int | None) -> list[int]:
    return [one.lane for one in place(tree(*parents))]


class TestPlace:
    def test_puts_a_plain_history_into_one_lane_the_newest_on_top(self) -> None:
        placed = place(tree(None, 0, 1))

        assert [(one.lane, one.row) for one in placed] == [(0, 2), (0, 1), (0, 0)]
        assert placed[0].y > placed[1].y > placed[2].y

    def test_opens_a_lane_for_the_second_child(self) -> None:
        # v2 went on from v1; v3 starts from v1 again and is gone on with.
        assert lanes(None, 0, 1, 1, 3) == [0, 0, 0, 1, 1]

    def test_uses_a_lane_again_once_nothing_is_in_the_way(self) -> None:
        # v2 ends lane 0 before v3, from which v4 and v5 come: the second finds lane 0 free.
        assert lanes(None, 0, 1, 1, 3, 3) == [0, 0, 0, 1, 1, 0]

    def test_crosses_no_dot_with_a_line(self) -> None:
        placed = place(tree(None, 0, 0, 0, 1, 2, 3, 1, 1, 0))
        by_key = {one.node.key: one for one in placed}

        for child in placed[1:]:
            parent = by_key[child.node.parent or 0]
            between = [
                one for one in placed if one.lane == child.lane and child.row < one.row < parent.row
            ]
            assert between == []

    def test_takes_versions_in_any_order(self) -> None:
        assert place(tree(None, 0, 0)[::-1]) == place(tree(None, 0, 0))


class Words(HTMLParser):
    """What is left of a drawing for whoever does not see it."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.classes: list[str] = []
        self.words = ""
        self.feed(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found["href"] or ""] if "href" in found else []
        self.classes.append(found.get("class") or "")

    def handle_data(self, data: str) -> None:
        self.words += data


class TestDraw:
    def test_says_everything_in_words_and_links(self) -> None:
        nodes = [
            *tree(None),
            Node(key=1, parent=0, label="v1", url="/v/1/", caption="round 1 · 9 triples", names=("champion",), main="champion"),
            Node(key=2, parent=1, label="v2", url="/v/2/", caption="round 2", note="corrupt", look="broken"),
        ]  # fmt: skip

        found = Words(lineage.draw(nodes, label="Lineage"))

        assert found.links == ["/v/0/", "/v/1/", "/v/2/"]
        assert "round 1 · 9 triples" in found.words
        assert "corrupt" in found.words
        assert found.classes.count("lineage-line") == 2
        assert found.classes.count("lineage-ring") == 1
        assert found.classes.count("lineage-cross") == 1
        assert "lineage-name is-main" in found.classes

    def test_takes_nothing_for_markup(self) -> None:
        nodes = tree(None, names=("<script>",), note="<b>")

        assert "<script>" not in lineage.draw(nodes, label='"><img>')
        assert "<img>" not in lineage.draw(nodes, label='"><img>')

    def test_grows_with_its_words_and_never_below_a_phones_width(self) -> None:
        def width(**fields: object) -> int:
            return int(
                lineage.draw(tree(None, **fields), label="").split('viewBox="0 0 ')[1].split()[0]
            )

        assert width() == lineage.LEAST_WIDTH
        assert width(note="x" * 100) > 600
