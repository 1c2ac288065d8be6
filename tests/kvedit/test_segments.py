from hypothesis import given
from hypothesis import strategies as st

from kvedit.segments import Segments

ids = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)


@given(documents=st.lists(ids, min_size=1, max_size=6), data=st.data())
def test_equal_sets_become_equal_prompts(
    documents: list[tuple[int, ...]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(documents))))
    one = Segments((1,), tuple(documents), (2,)).canonical()
    other = Segments((1,), tuple(documents[index] for index in order), (2,)).canonical()
    assert one.ids == other.ids
    assert one.lengths == other.lengths


@given(documents=st.lists(ids, min_size=1, max_size=6))
def test_the_order_points_back_to_the_caller(documents: list[tuple[int, ...]]) -> None:
    canonical = Segments((), tuple(documents), ()).canonical()
    assert sorted(canonical.order) == list(range(len(documents)))
    assert [documents[index] for index in canonical.order] == list(canonical.documents)


def test_ids_are_prefix_documents_suffix() -> None:
    segments = Segments((7,), ((3, 4), (1,)), (9, 9))
    assert segments.ids == (7, 3, 4, 1, 9, 9)
    assert segments.canonical().ids == (7, 1, 3, 4, 9, 9)
    assert segments.canonical().order == (1, 0)
