"""Made-up names: valid, many, and the same for the same id."""

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.model.names import made_up_name
from swarmlet.model.validate import check_dns_name

IDS = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=25, max_size=25)


@given(IDS)
def test_made_up_name_is_a_valid_name_of_a_service(object_id):
    check_dns_name(made_up_name(object_id))
    assert made_up_name(object_id) == made_up_name(object_id)


def test_made_up_names_differ_for_ids_that_follow_each_other():
    names = {made_up_name(f"{number:025}") for number in range(1000)}
    assert len(names) > 900
