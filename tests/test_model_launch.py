"""Processes of one training started by one command.

Testpoints: they know one another as torchrun's do, and the main one's result comes back; an error of the input in any
of them is one ValueError with its words, another one is not; where one fails or the start is interrupted, none is left.
"""

from multiprocessing import active_children

import pytest
from launched import be_interrupted, fail_in, mean_of_ranks
from torch.multiprocessing import ProcessRaisedException
from torch.multiprocessing.spawn import ProcessContext

from model.launch import is_started_by_torchrun, run_together

pytestmark = pytest.mark.slow


def test_main_result_comes_back() -> None:
    assert not is_started_by_torchrun()
    for _ in range(2):  # the second time with other addresses
        assert run_together(2, mean_of_ranks, 3.0) == (0, 1.5, 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_wrong_input_is_said_in_its_own_words(rank: int) -> None:
    with pytest.raises(ValueError, match=r"^limits must fall$"):
        run_together(2, fail_in, rank, ValueError("limits must fall"))
    assert not active_children()


def test_other_errors_are_errors_of_ours() -> None:
    with pytest.raises(ProcessRaisedException, match="KeyError: 'block'"):
        run_together(2, fail_in, 1, KeyError("block"))


def test_an_interrupt_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ProcessContext) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_together(2, be_interrupted)
    monkeypatch.setattr(ProcessContext, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_together(2, fail_in, 1, ValueError("late"))
    assert not active_children()
